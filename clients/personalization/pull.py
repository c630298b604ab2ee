"""The gradient of weight / 2 * ||w - anchor||^2, which proximal methods add to a training gradient."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from fedhealth.training.trainer import Correction
from fedhealth.types import State


def toward(anchor: State, weight: float) -> Correction:
    """Return a correction that pulls every parameter named in `anchor` toward its value there."""
    values = {name: torch.tensor(array) for name, array in anchor.items()}

    def correct(step: int, parameters: Mapping[str, nn.Parameter]) -> None:
        for name, parameter in parameters.items():
            if name in values:
                values[name] = values[name].to(parameter.device)
                pull = weight * (parameter.detach() - values[name])
                parameter.grad = pull if parameter.grad is None else parameter.grad.add_(pull)

    return correct
