"""The optimizer of a training round, and how many steps it takes."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import nn
from torch.optim import Optimizer

from fedhealth.config.instantiate import instantiate
from fedhealth.config.schema import TrainingConfig


def build_optimizer(training: TrainingConfig, parameters: Mapping[str, nn.Parameter]) -> Optimizer:
    """Return the optimizer of a model's trained parameters; encoders train at `encoder_lr` times the learning rate."""
    encoder_parameters = [p for name, p in parameters.items() if name.startswith("towers.") and ".encoder." in name]
    if training.encoder_lr == 1 or not encoder_parameters:
        optimizer: Optimizer = instantiate(training.optimizer)(list(parameters.values()))
        return optimizer
    inside = set(encoder_parameters)
    groups = [{"params": [p for p in parameters.values() if p not in inside]}, {"params": encoder_parameters}]
    optimizer = instantiate(training.optimizer)(groups)
    optimizer.param_groups[1]["lr"] *= training.encoder_lr
    return optimizer


def count_steps(training: TrainingConfig, rows: int) -> int:
    """Return the optimizer steps of one round at a site with `rows` training rows."""
    if training.local_steps is not None:
        return training.local_steps
    return math.ceil(rows / training.batch_size) * (training.local_epochs or 1)
