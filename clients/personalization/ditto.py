"""Ditto: a personal copy near the shared model.

Li et al., "Ditto: Fair and Robust Federated Learning Through Personalization", ICML 2021, algorithm 1.

The shared model w is trained as without Ditto. The copy v minimises F_k(v) + lambda / 2 * ||v - w_t||^2: its gradient
is F_k'(v) + lambda * (v - w_t). It feeds nothing that is shared, so it needs no noise and never leaves.
"""

from __future__ import annotations

from clients.personalization.base import LocalTask, Outcome, Whole
from clients.personalization.pull import toward
from fedhealth.types import State


class Ditto(Whole):
    """A personal copy of the whole model.

    Args:
        weight: lambda; 0 trains the copy alone, a large one copies the shared model.

    """

    protected = False

    def __init__(self, weight: float = 0.1) -> None:
        self.weight = weight

    def train(self, local: LocalTask) -> Outcome:
        """Train the shared model, then the copy toward the model that came."""
        report = local.fit()
        copy = local.fit_copy(local.memory or local.merged, toward(local.shared, self.weight))
        local.memory.update(copy)
        return Outcome(report)

    def personal(self, local: LocalTask) -> State:
        """Return the copy; before the first round there is none."""
        return dict(local.memory)
