"""APFL: a learned mixture of a personal and the shared model.

Deng et al., "Adaptive Personalized Federated Learning", 2020, algorithm 1 and equation 10.

The site's model is u = alpha * v + (1 - alpha) * w. A personal step follows the gradient g of F_k at u:
v <- v - eta * alpha * g (the gradient by v), and alpha <- alpha - eta_alpha * <v - w, g>, kept in [0, 1].

The paper steps w and v side by side. Here w is trained first, privately where that is asked for, and v against the w
that came, held for the round: the same for one local step, and no copy of w is needed for each step. v and alpha feed
nothing that is shared: they are not noised and never leave.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from clients.personalization.base import LocalTask, Outcome, Whole
from fedhealth.types import State

ALPHA = "alpha"


class APFL(Whole):
    """A personal copy and its share in the site's model.

    Args:
        alpha: the share at the start.
        rate: eta_alpha, the learning rate of the share; 0 keeps it.

    """

    protected = False

    def __init__(self, alpha: float = 0.5, rate: float = 0.01) -> None:
        self.alpha, self.rate = alpha, rate

    def train(self, local: LocalTask) -> Outcome:
        """Train the shared model, then the copy and its share."""
        report = local.fit()
        copy = {name: array for name, array in local.memory.items() if name != ALPHA}
        mixture = Mixture(local.merged, self._share(local), self.rate)
        parameters = dict(local.model.named_parameters())
        hook = local.model.register_forward_pre_hook(lambda *_: mixture.enter(parameters))
        try:
            trained = local.fit_copy(copy or local.merged, mixture.leave)
        finally:
            hook.remove()
        local.memory.update(trained | {ALPHA: np.array([mixture.alpha], np.float32)})
        return Outcome(report)

    def personal(self, local: LocalTask) -> State:
        """Return the mixture; running statistics were gathered by the mixture and are taken as they are."""
        share, learned = self._share(local), {name for name, _ in local.model.named_parameters()}
        return {
            name: (share * v + (1 - share) * local.merged[name]).astype(np.float32) if name in learned else v
            for name, v in local.memory.items()
            if name != ALPHA
        }

    def _share(self, local: LocalTask) -> float:
        return float(local.memory[ALPHA][0]) if ALPHA in local.memory else self.alpha


class Mixture:
    """Puts alpha * v + (1 - alpha) * w into the parameters for a forward pass, and v back for the step after it.

    Attributes:
        alpha: the share, after the steps so far.

    """

    def __init__(self, fixed: State, alpha: float, rate: float) -> None:
        self.alpha, self._rate = alpha, rate
        self._fixed = {name: torch.tensor(array) for name, array in fixed.items()}
        self._own: dict[str, Tensor] = {}

    @torch.no_grad()
    def enter(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Keep v and mix."""
        for name, parameter in parameters.items():
            if name in self._fixed:
                self._fixed[name] = self._fixed[name].to(parameter.device)
                self._own[name] = parameter.detach().clone()
                parameter.lerp_(self._fixed[name], 1 - self.alpha)

    @torch.no_grad()
    def leave(self, step: int, parameters: Mapping[str, nn.Parameter]) -> None:
        """Put v back with its own gradient, and step alpha."""
        slope = 0.0
        for name, parameter in parameters.items():
            parameter.copy_(self._own[name])
            if parameter.grad is not None:
                slope += float(((self._own[name] - self._fixed[name]) * parameter.grad).sum())
                parameter.grad *= self.alpha
        self.alpha = min(1.0, max(0.0, self.alpha - self._rate * slope))
