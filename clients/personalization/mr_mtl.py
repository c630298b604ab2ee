"""MR-MTL: mean-regularised multi-task learning.

Liu et al., "On Privacy and Personalization in Cross-Silo Federated Learning", NeurIPS 2022.

Every site has a model w_k and minimises F_k(w_k) + lambda / 2 * ||w_k - mean(w)||^2. It goes on from its own model,
not from the mean, and its own model is what is averaged: the contribution is w_k - mean(w), so that the mean moves to
the new mean. The site's model is made by the trainer alone, noised in private training; the pull follows the noise.
"""

from __future__ import annotations

from clients.personalization.base import LocalTask, Outcome, Whole
from clients.personalization.pull import toward
from fedhealth.models.model_state import set_state
from fedhealth.types import State


class MeanRegularised(Whole):
    """A model of the site's own, near the mean of all.

    Args:
        weight: lambda; 0 trains every site alone, a large one gives FedAvg.

    """

    def __init__(self, weight: float = 0.1) -> None:
        self.weight = weight

    def train(self, local: LocalTask) -> Outcome:
        """Train the site's own model toward the mean that came."""
        set_state(local.model, local.memory)
        report = local.fit(toward(local.shared, self.weight))
        local.memory.update(local.now())
        return Outcome(report)

    def personal(self, local: LocalTask) -> State:
        """Return the site's own model; before the first round there is none."""
        return dict(local.memory)
