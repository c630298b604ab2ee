"""APFL: a learned mixture of a personal model and the shared model.

Deng et al., "Adaptive Personalized Federated Learning", 2020, algorithm 1 and equation 10.

The site's model is u = alpha * v + (1 - alpha) * w. A personal step follows the gradient g of F_k at u:
v <- v - eta * alpha * g (the gradient by v), and alpha <- alpha - eta_alpha * <v - w, g>, kept in [0, 1].

The paper updates w and v in the same step. Here w is trained first (with differential privacy if configured), then v
against the incoming w, which is fixed during the round: this is the same for one local step and needs no copy of w per
step. Nothing that is shared depends on v or alpha: they are trained without noise and never leave the site.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from clients.personalization.base import BasePersonalization, LocalRound, TrainingResult
from fedhealth.types import State

ALPHA = "alpha"


class APFL(BasePersonalization):
    """Train a personal copy and its weight in the mixture.

    Args:
        alpha: the initial weight of the personal copy.
        alpha_lr: eta_alpha, the learning rate of alpha; 0 keeps alpha fixed.

    """

    personal_model_is_dp = False

    def __init__(self, alpha: float = 0.5, alpha_lr: float = 0.01) -> None:
        self.alpha, self.alpha_lr = alpha, alpha_lr

    def train(self, local: LocalRound) -> TrainingResult:
        """Train the shared model, then the personal copy and alpha."""
        report = local.fit()
        copy = {name: array for name, array in local.client_state.items() if name != ALPHA}
        mixture = Mixture(local.merged, self._get_alpha(local), self.alpha_lr)
        parameters = dict(local.model.named_parameters())
        hook = local.model.register_forward_pre_hook(lambda *_: mixture.enter(parameters))
        try:
            trained = local.fit_copy(copy or local.merged, mixture.leave)
        finally:
            hook.remove()
        local.client_state.update(trained | {ALPHA: np.array([mixture.alpha], np.float32)})
        return TrainingResult(report)

    def get_personal_arrays(self, local: LocalRound) -> State:
        """Return the mixture; running statistics come from the mixture's forward passes and are used unchanged."""
        alpha, learned = self._get_alpha(local), {name for name, _ in local.model.named_parameters()}
        return {
            name: (alpha * v + (1 - alpha) * local.merged[name]).astype(np.float32) if name in learned else v
            for name, v in local.client_state.items()
            if name != ALPHA
        }

    def _get_alpha(self, local: LocalRound) -> float:
        return float(local.client_state[ALPHA][0]) if ALPHA in local.client_state else self.alpha


class Mixture:
    """Set the parameters to alpha * v + (1 - alpha) * w for the forward pass, and back to v for the optimizer step.

    Attributes:
        alpha: the weight of the personal copy, after the steps so far.

    """

    def __init__(self, fixed: State, alpha: float, alpha_lr: float) -> None:
        self.alpha, self._alpha_lr = alpha, alpha_lr
        self._fixed = {name: torch.tensor(array) for name, array in fixed.items()}
        self._own: dict[str, Tensor] = {}

    @torch.no_grad()
    def enter(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Store v and set the parameters to the mixture."""
        for name, parameter in parameters.items():
            if name in self._fixed:
                self._fixed[name] = self._fixed[name].to(parameter.device)
                self._own[name] = parameter.detach().clone()
                parameter.lerp_(self._fixed[name], 1 - self.alpha)

    @torch.no_grad()
    def leave(self, step: int, parameters: Mapping[str, nn.Parameter]) -> None:
        """Restore v with its own gradient, and update alpha."""
        slope = 0.0
        for name, parameter in parameters.items():
            parameter.copy_(self._own[name])
            if parameter.grad is not None:
                slope += float(((self._own[name] - self._fixed[name]) * parameter.grad).sum())
                parameter.grad *= self.alpha
        self.alpha = min(1.0, max(0.0, self.alpha - self._alpha_lr * slope))
