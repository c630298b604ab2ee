"""What the round loop asks of an aggregation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from flwr.app import ConfigRecord, RecordDict

from fedhealth.errors import FederationError
from fedhealth.protocol.messages import Directive
from fedhealth.types import State

Ask = Callable[[str, Mapping[str, RecordDict]], Iterator[tuple[str, RecordDict]]]
"""Send one more message (its type, content by site) within the round and yield (site, answer) as they come."""

Weights = Mapping[str, Mapping[str, float]]
"""By site, then by tower (see `fedhealth.models.modality_keys`)."""

Shapes = Mapping[str, tuple[int, ...]]
"""Of named arrays."""


class AttemptFailedError(FederationError):
    """This attempt gave no sum, but nothing was opened either: the same round may be tried again."""


@dataclass(frozen=True)
class Round:
    """One attempt at a round.

    Attributes:
        kind: the message type, such as `train.fit`.
        directive: what the sites are told.
        incoming: the shared arrays they get.
        expected: arrays an update must have (names, shapes); empty when only statistics are wanted.
        statistics: shape of every vector of statistics.
        weights: announced by the sites.

    """

    kind: str
    directive: Directive
    incoming: State
    expected: State
    statistics: Shapes
    weights: Weights


@dataclass(frozen=True)
class Aggregate:
    """What a round gave.

    Attributes:
        update: mean of the sites' updates by weight, float32; without the towers that too few sites can train.
        statistics: int64 sums of the named vectors.
        sites: who is in it, sorted.

    """

    update: State
    statistics: dict[str, np.ndarray]
    sites: tuple[str, ...]


class Aggregation(Protocol):
    """Folds one round's answers as they arrive; holds one sum, never a list of answers."""

    @property
    def last_exchange(self) -> int:
        """The latest exchange begun, also before a restart; 0 where that is of no consequence."""

    def start(self, run: str, digest: str, folder: Path) -> None:
        """Begin (or continue) a run whose lead keeps its state in `folder`."""

    def admit(self, site: str, content: RecordDict) -> None:
        """Take what a site's handshake brought.

        Raises:
            FedhealthError: it does not fit; the site is left out.

        """

    def resume(self, attempt: Round, settled: int) -> int | None:
        """Take up the opening of a sum over the same question that was interrupted; return its exchange.

        None where there is none after the exchange `settled`; otherwise `close` is next.
        """

    def open(self, attempt: Round) -> ConfigRecord | None:
        """Begin an attempt; return a record that goes to every site with the question."""

    def add(self, site: str, content: RecordDict) -> dict[str, np.ndarray] | None:
        """Fold one site's answer; return its own statistics where they may be seen.

        Raises:
            FedhealthError: the answer does not fit; nothing of it was folded.

        """

    def close(self, ask: Ask) -> Aggregate:
        """End the attempt and return what it gave.

        Raises:
            AttemptFailedError: too few answered; try again.
            FedhealthError: no sum can be had.

        """
