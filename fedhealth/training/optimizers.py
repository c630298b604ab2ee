"""The optimizer of a training round, and how many steps it takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fedhealth.config.instantiate import instantiate
from fedhealth.config.schema import Sends, TrainingConfig
from fedhealth.training.eager_optimizers import EagerSGD, make_eager
from fedhealth.types import State

MakeOptimizer = Callable[[Any], Optimizer]
"""A torch optimizer that still needs its parameters, or groups of them."""


def build_optimizer(
    training: TrainingConfig, parameters: Mapping[str, nn.Parameter], rate_factor: float = 1.0
) -> Optimizer:
    """Return the optimizer of a site's training round; where the lead has the optimizer, one that moves nothing."""
    if training.sends is Sends.gradient:
        return EagerSGD(list(parameters.values()), lr=0.0)
    optimizer = make_optimizer(instantiate(training.optimizer), training.encoder_lr, parameters)
    for group in optimizer.param_groups:
        group["lr"] *= rate_factor
    return optimizer


def make_optimizer(make: MakeOptimizer, encoder_lr: float, parameters: Mapping[str, nn.Parameter]) -> Optimizer:
    """Return the optimizer of a model's trained parameters; encoders train at `encoder_lr` times the learning rate."""
    make = make_eager(make)
    encoder_parameters = [p for name, p in parameters.items() if name.startswith("towers.") and ".encoder." in name]
    if encoder_lr == 1 or not encoder_parameters:
        return make(list(parameters.values()))
    inside = set(encoder_parameters)
    others = [p for p in parameters.values() if p not in inside]
    optimizer = make([{"params": others}, {"params": encoder_parameters}])
    optimizer.param_groups[1]["lr"] *= encoder_lr
    return optimizer


def collect_gradients(training: TrainingConfig, parameters: Mapping[str, nn.Parameter]) -> State | None:
    """Return the descending direction of the last step by name; None if the site sends the change of its weights."""
    if training.sends is not Sends.gradient:
        return None
    return {name: -_get_gradient(parameter).contiguous().cpu().numpy() for name, parameter in parameters.items()}


def _get_gradient(parameter: nn.Parameter) -> Tensor:
    """Return the gradient; zero for a parameter that the step did not use."""
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.detach()


def count_steps(training: TrainingConfig, rows: int) -> int:
    """Return the optimizer steps of one round at a site with `rows` training rows."""
    if training.local_steps is not None:
        return training.local_steps
    return math.ceil(rows / training.batch_size) * (training.local_epochs or 1)
