"""The default server-side state of a method: add up the mean changes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fedhealth.types import State
from strategies.aggregation.base import Shapes


class MeanAccumulator:
    """Add the mean change to arrays that start at zero; sufficient for most methods, such as SCAFFOLD."""

    provides: tuple[str, ...] = ()

    def initialize(self, extra: Shapes) -> State:
        """Return zeros."""
        return {name: np.zeros(shape, np.float32) for name, shape in extra.items()}

    def step(self, extra: State, update: State, statistics: Mapping[str, np.ndarray]) -> State:
        """Return extra + update."""
        return extra | {name: (extra[name] + change).astype(np.float32) for name, change in update.items()}
