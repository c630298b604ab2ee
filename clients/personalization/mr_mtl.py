"""MR-MTL: mean-regularised multi-task learning.

Liu et al., "On Privacy and Personalization in Cross-Silo Federated Learning", NeurIPS 2022.

Every site has a model w_k and minimizes F_k(w_k) + lambda / 2 * ||w_k - mean(w)||^2. Training continues from the site's
own model, not from the mean, and the sites' own models are averaged: the contribution is w_k - mean(w). Only the
trainer trains the site's model, with noise in private training; the proximal gradient is added after the noise.
"""

from __future__ import annotations

from clients.personalization.base import BasePersonalization, LocalRound, TrainingResult
from clients.personalization.proximal import make_proximal_hook
from fedhealth.models.model_state import set_model_arrays
from fedhealth.types import State


class MeanRegularised(BasePersonalization):
    """Train a personal model with a proximal term around the mean of all sites' models.

    Args:
        weight: lambda; 0 trains every site on its own, a large value gives FedAvg.

    """

    def __init__(self, weight: float = 0.1) -> None:
        self.weight = weight

    def train(self, local: LocalRound) -> TrainingResult:
        """Train the site's own model with a proximal term around the incoming mean."""
        set_model_arrays(local.model, local.client_state)
        report = local.fit(make_proximal_hook(local.shared, self.weight))
        local.client_state.update(local.get_current_arrays())
        return TrainingResult(report)

    def get_personal_arrays(self, local: LocalRound) -> State:
        """Return the site's own model; empty before the first round."""
        return dict(local.client_state)
