"""The proximal term weight / 2 * ||w - anchor||^2; proximal methods add its gradient to the training gradient."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from fedhealth.training.trainer import GradientHook
from fedhealth.types import State


def make_proximal_hook(anchor: State, weight: float) -> GradientHook:
    """Return a hook that adds the gradient of the proximal term to each parameter named in `anchor`."""
    values = {name: torch.tensor(array) for name, array in anchor.items()}

    def hook(step: int, parameters: Mapping[str, nn.Parameter]) -> None:
        for name, parameter in parameters.items():
            if name in values:
                values[name] = values[name].to(parameter.device)
                pull = weight * (parameter.detach() - values[name])
                parameter.grad = pull if parameter.grad is None else parameter.grad.add_(pull)

    return hook
