"""FedProx: stay near the incoming model. Li et al., "Federated Optimization in Heterogeneous Networks", MLSys 2020.

The objective F_k(w) + mu / 2 * ||w - w_t||^2 has the gradient F_k'(w) + mu * (w - w_t). The second part is added to
the (noised) gradient, never to the loss: it concerns no patient.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from clients.personalization.base import LocalTask, Outcome, Whole
from clients.personalization.pull import toward

MU = "mu"


class FedProx(Whole):
    """A proximal term around the incoming shared arrays.

    Args:
        mu: its weight; null where the lead sends it (`method=fedprox_adaptive`).

    """

    def __init__(self, mu: float | None = 0.1) -> None:
        self.mu = mu

    def extras(self, shared: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """Return the lead's mu, where it is the lead's, and what it remembers beside it."""
        return {MU: (3,)} if self.mu is None else {}

    def train(self, local: LocalTask) -> Outcome:
        """Train with the proximal term."""
        mu = float(local.extra[MU][0]) if self.mu is None else self.mu
        report = local.fit(toward(local.shared, mu))
        return Outcome(report, {name: np.zeros_like(value) for name, value in local.extra.items()})
