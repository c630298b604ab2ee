"""SCAFFOLD: control variates against client drift. Karimireddy et al., ICML 2020, algorithm 1.

Each step follows g - c_i + c. The site's control variate becomes the mean of its own gradients of the round: for plain
SGD with K steps of size eta that is the paper's option II, c_i+ = c_i - c + (x - y_i) / (K eta), and it is also correct
for other optimizers. In private training g is noised before c is added and before it is averaged, so the site sends
only values made of noised gradients. The server's part is `strategies.server_state.mean.MeanAccumulator`:
c += |S| / N * mean(c_i+ - c_i).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from clients.personalization.base import BasePersonalization, LocalRound, TrainingResult
from fedhealth.training.trainer import GradientHook

CONTROL = "control."


class Scaffold(BasePersonalization):
    """Train with a control variate for each shared array."""

    def get_extra_shapes(self, shared: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """Return the shape of a control variate for each shared array."""
        return {CONTROL + name: shape for name, shape in shared.items()}

    def train(self, local: LocalRound) -> TrainingResult:
        """Train along the corrected gradients; return the change of the site's control variate."""
        total = {name: torch.zeros(array.shape) for name, array in local.shared.items()}
        own = {name: local.client_state.get(CONTROL + name) for name in local.shared}
        gap = {
            name: torch.from_numpy(local.extra[CONTROL + name] - (0 if control is None else control))
            for name, control in own.items()
        }
        report = local.fit(_make_control_variate_hook(gap, total), is_resumable=False)
        change = {}
        for name, control in own.items():
            mean = (total[name] / max(1, report.steps)).cpu().numpy()
            change[CONTROL + name] = mean if control is None else mean - control
            local.client_state[CONTROL + name] = mean
        return TrainingResult(report, change)


def _make_control_variate_hook(gap: dict[str, Tensor], total: dict[str, Tensor]) -> GradientHook:
    """Return a hook that adds each gradient to `total`, and c - c_i to each gradient."""

    def hook(step: int, parameters: Mapping[str, nn.Parameter]) -> None:
        for name, parameter in parameters.items():
            if name in gap and parameter.grad is not None:
                gap[name], total[name] = gap[name].to(parameter.device), total[name].to(parameter.device)
                total[name] += parameter.grad
                parameter.grad += gap[name]

    return hook
