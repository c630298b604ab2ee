"""What the round loop asks of an aggregation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from flwr.app import RecordDict

from fedhealth.training.state import State
from fedhealth.wire import Directive

Ask = Callable[[str, Mapping[str, RecordDict]], Iterator[tuple[str, RecordDict]]]
"""Send one more message (its type, content by site) within the round and yield (site, answer) as they come."""


@dataclass(frozen=True)
class Aggregate:
    """What a round gave.

    Attributes:
        update: mean of the sites' updates by weight, float32, the shape of the shared arrays.
        statistics: int64 sums of the named vectors.
        sites: who is in it, sorted.
        weight: their weights' sum.

    """

    update: State
    statistics: dict[str, np.ndarray]
    sites: tuple[str, ...]
    weight: float


class Aggregation(Protocol):
    """Folds one round's answers as they arrive; holds one sum, never a list of answers."""

    def open(self, directive: Directive, arrays: State, weights: Mapping[str, float]) -> None:
        """Begin a round: the incoming shared arrays and the announced weight of every site asked."""

    def add(self, site: str, content: RecordDict) -> dict[str, np.ndarray] | None:
        """Fold one site's answer; return its own statistics where they may be seen.

        Raises:
            FederationError: the answer does not fit; nothing of it was folded.

        """

    def close(self, ask: Ask) -> Aggregate:
        """End the round and return what it gave.

        Raises:
            FederationError: no sum can be had.

        """
