"""FedProx: a proximal term around the incoming model.

Li et al., "Federated Optimization in Heterogeneous Networks", MLSys 2020.

The objective F_k(w) + mu / 2 * ||w - w_t||^2 has the gradient F_k'(w) + mu * (w - w_t). The proximal part is
added to the (noised) gradient, not to the loss, because it does not depend on patients.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from clients.personalization.base import BasePersonalization, LocalRound, TrainingResult
from clients.personalization.proximal import make_proximal_hook
from fedhealth.config.capabilities import SERVER_MU

MU = "mu"


class FedProx(BasePersonalization):
    """Train with a proximal term around the incoming shared arrays.

    Args:
        mu: weight of the proximal term; null takes the lead's value (`method=fedprox_adaptive`).

    """

    requires = (SERVER_MU,)
    keeps_arrays = False

    def __init__(self, mu: float | None = 0.1) -> None:
        self.mu = mu

    def get_extra_shapes(self, shared: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """Return the shape of the lead's mu and the state it keeps beside it, if the lead adapts mu."""
        return {MU: (3,)} if self.mu is None else {}

    def train(self, local: LocalRound) -> TrainingResult:
        """Train with the proximal term."""
        mu = float(local.extra[MU][0]) if self.mu is None else self.mu
        report = local.fit(make_proximal_hook(local.shared, mu))
        return TrainingResult(report, {name: np.zeros_like(value) for name, value in local.extra.items()})
