"""FedProx's mu, adapted to the loss: Li et al., "Federated Optimization in Heterogeneous Networks", MLSys 2020, 5.3.2.

mu grows by 0.1 when the loss rises and shrinks by 0.1 when it fell five times in a row. The site's half is
`clients.personalization.fedprox`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fedhealth.config.capabilities import SERVER_MU
from fedhealth.types import State
from strategies.aggregation.base import Shapes

MU = "mu"
_LOSS, _FALLS = "loss", "falls"


class AdaptiveMu:
    """FedProx's mu as server-side state.

    Args:
        start: the first mu.
        step: the change of mu.
        falls: number of consecutive falls of the loss that make it smaller.

    """

    provides = (SERVER_MU,)

    def __init__(self, start: float = 0.1, step: float = 0.1, falls: int = 5) -> None:
        self.start, self.rise, self.falls = start, step, falls

    def initialize(self, extra: Shapes) -> State:
        """Return mu, the last loss and the number of consecutive falls as one array, which is sent and checkpointed."""
        return {MU: np.array([self.start, np.inf, 0], np.float32)}

    def step(self, extra: State, update: State, statistics: Mapping[str, np.ndarray]) -> State:
        """Return the next mu, computed from the round's mean training loss."""
        mu, last, falls = (float(value) for value in extra[MU])
        loss = float(statistics["train.loss"][0]) / max(1, int(statistics["train.examples"][0]))
        if loss > last:
            mu, falls = mu + self.rise, 0
        elif np.isfinite(last) and (falls := falls + 1) >= self.falls:
            mu, falls = max(0.0, mu - self.rise), 0
        return {MU: np.array([mu, loss, falls], np.float32)}
