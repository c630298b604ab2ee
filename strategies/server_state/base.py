"""The interface of a method's server-side state: arrays that the lead sends to the sites together with the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from fedhealth.types import State
from strategies.aggregation.base import Shapes


class ServerMethodState(Protocol):
    """Maintains a method's extra arrays; the site's half names them (`clients.personalization.base`).

    Attributes:
        provides: what it sends that a personalization may require, in the words of `fedhealth.config.capabilities`.

    """

    provides: tuple[str, ...]

    def initialize(self, extra: Shapes) -> State:
        """Return the extra arrays of the first round, float32."""

    def step(self, extra: State, update: State, statistics: Mapping[str, np.ndarray]) -> State:
        """Return the next round's extra arrays.

        Args:
            extra: this round's, float32 by name.
            update: the weighted mean of the sites' changes over all participating sites; a site that did not reply
                counts with a change of zero. Without towers that too few sites train.
            statistics: the round's sums.

        """
