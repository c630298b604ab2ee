"""The lead's half of a two-sided method: arrays that travel beside the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from fedhealth.types import State
from strategies.aggregation.base import Shapes


class Companion(Protocol):
    """Keeps a method's extra arrays; the site's half names them (`clients.personalization.base`)."""

    def begin(self, extra: Shapes) -> State:
        """Return the extra arrays of the first round, float32."""

    def step(self, extra: State, update: State, statistics: Mapping[str, np.ndarray]) -> State:
        """Return the next round's extra arrays.

        Args:
            extra: this round's.
            update: the mean of the sites' changes by weight, over the whole cohort: who did not answer changed
                nothing. Without towers that too few sites train.
            statistics: the round's sums.

        """


class Mean:
    """Add the mean change to arrays that start at zero: all that most methods need."""

    def begin(self, extra: Shapes) -> State:
        """Return zeros."""
        return {name: np.zeros(shape, np.float32) for name, shape in extra.items()}

    def step(self, extra: State, update: State, statistics: Mapping[str, np.ndarray]) -> State:
        """Return extra + update."""
        return extra | {name: (extra[name] + change).astype(np.float32) for name, change in update.items()}
