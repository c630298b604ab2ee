"""Ditto: a personal copy with a proximal term around the shared model.

Li et al., "Ditto: Fair and Robust Federated Learning Through Personalization", ICML 2021, algorithm 1.

The shared model w is trained as without Ditto. The copy v minimizes F_k(v) + lambda / 2 * ||v - w_t||^2: its gradient
is F_k'(v) + lambda * (v - w_t). Nothing that is shared depends on v: it needs no noise, and it never leaves the site.
"""

from __future__ import annotations

from clients.personalization.base import BasePersonalization, LocalRound, TrainingResult
from clients.personalization.proximal import make_proximal_hook
from fedhealth.types import State


class Ditto(BasePersonalization):
    """Train a personal copy of the whole model.

    Args:
        weight: lambda; 0 trains the copy alone, a large one copies the shared model.

    """

    personal_model_is_dp = False
    sends_plain_gradients = True

    def __init__(self, weight: float = 0.1) -> None:
        self.weight = weight

    def train(self, local: LocalRound) -> TrainingResult:
        """Train the shared model, then the copy with a proximal term around the incoming model."""
        report = local.fit()
        copy = local.fit_copy(local.client_state or local.merged, make_proximal_hook(local.shared, self.weight))
        local.client_state.update(copy)
        return TrainingResult(report)

    def get_personal_arrays(self, local: LocalRound) -> State:
        """Return the personal copy; empty before the first round."""
        return dict(local.client_state)
