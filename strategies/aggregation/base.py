"""What an aggregation is: it gets the sites' replies of a round one by one and returns one update.

    open(attempt)                 a round begins: what the sites were sent, what they must reply, their weights
    add(site, content)            one reply: check it whole, then fold it in; raise to leave the site out
    close(send_follow_up)         the round ends: return the update, the summed statistics and the sites in it

An aggregation that reads plain replies derives from `StatelessAggregation`, which answers everything else, and has
these three methods; see docs/add-an-aggregation.md. The other methods are for sums under masks, whose state must
survive a restart of the lead. The configuration names the class (`conf/strategy/aggregation/*.yaml`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from flwr.app import ConfigRecord, RecordDict

from fedhealth.errors import FederationError
from fedhealth.privacy.auditing.blank_values import BlankValues
from fedhealth.protocol.messages import Directive
from fedhealth.types import State

SendFollowUp = Callable[[str, Mapping[str, RecordDict]], Iterator[tuple[str, RecordDict]]]
"""Send a further message (its type, content by site) within the round and yield (site, reply) as replies arrive."""

Weights = Mapping[str, Mapping[str, float]]
"""By site, then by tower (see `fedhealth.models.modality_keys`)."""

Shapes = Mapping[str, tuple[int, ...]]
"""By the name of the array."""


class AttemptFailedError(FederationError):
    """The attempt failed before anything was unmasked, so the same round may be tried again."""


@dataclass(frozen=True)
class RoundAttempt:
    """One attempt at a round.

    Attributes:
        kind: the message type, such as `train.fit`.
        directive: sent to the sites.
        incoming: the shared arrays sent to the sites.
        expected: arrays that an update must have (names, shapes); empty if only statistics are requested.
        statistics: shape of every vector of statistics.
        weights: announced by the sites.
        sensitivity: of the tables among the statistics whose noise the sites share; 0 if there are none.

    """

    kind: str
    directive: Directive
    incoming: State
    expected: State
    statistics: Shapes
    weights: Weights
    sensitivity: float = 0.0


@dataclass(frozen=True)
class Aggregate:
    """The result of a round.

    Attributes:
        update: weighted mean of the sites' updates, float32; without the towers that too few sites can train.
        statistics: int64 sums of the named vectors.
        sites: included in it, sorted.
        link: of the history, see `Aggregation.advance_history`; empty if there is none.
        blanks: by segment, the blank values of a sum whose noise the sites share.

    """

    update: State
    statistics: dict[str, np.ndarray]
    sites: tuple[str, ...]
    link: bytes = b""
    blanks: Mapping[str, BlankValues] = field(default_factory=dict)


class Aggregation(Protocol):
    """Aggregates one round's replies as they arrive.

    Arrays of the model are float32 by name, statistics int64 by name.

    Attributes:
        sees_single_updates: whether the lead can read each site's own update; a class that does not say counts as one
            that can (see `fedhealth.config.capabilities`).

    """

    sees_single_updates: bool

    @property
    def required_sites(self) -> int:
        """The fewest sites that it can aggregate in this run; known after `start`."""

    @property
    def last_exchange(self) -> int:
        """The latest exchange begun, also before a restart; 0 if the aggregation does not depend on it."""

    def start(self, run: str, digest: str, folder: Path) -> None:
        """Begin (or resume) a run whose aggregation state is stored in `folder`."""

    def admit(self, site: str, content: RecordDict) -> None:
        """Check and register the content of a site's handshake.

        Raises:
            FedhealthError: it is invalid; the site is left out.

        """

    def begin_history(self, initial: State, head: str) -> None:
        """Begin or resume the history of the run.

        Args:
            initial: the model's shared arrays before training.
            head: the history of the checkpoint that the run goes on from; empty at the start.

        """

    def advance_history(self, aggregate: Aggregate, arrays: State) -> str:
        """Add a result to the history, together with the arrays that follow from it; return the new head."""

    def look_back(self, head: str) -> None:
        """Send requests that follow from an earlier head, to evaluate the model of an earlier round.

        Raises:
            FederationError: it is not in the history.

        """

    def load_opened(self, kind: str, number: int, incoming: State) -> Aggregate | None:
        """Return the stored result of this request, so that no site is asked for it again; None if there is none.

        Args:
            kind: the message type.
            number: the round.
            incoming: the shared arrays of the request.

        """

    def find_repetition(self, kind: str, number: int, incoming: State) -> int:
        """Return the exchange in which this request was first made, if the sites may answer it as they did then.

        Return 0 if it must be answered anew.
        """

    def choose_sites(self, kind: str, sites: Sequence[str]) -> tuple[str, ...]:
        """Return which of these sites to ask for replies to a message type."""

    def give_up(self) -> None:
        """Never ask for the latest answers again: their sum cannot be opened any more."""

    def resume(self, attempt: RoundAttempt, saved_exchange: int) -> int | None:
        """Resume the interrupted unmasking of a sum for the same request; return its exchange.

        Return None if there is none after `saved_exchange`; otherwise the caller calls `close` next.
        """

    def open(self, attempt: RoundAttempt) -> ConfigRecord | None:
        """Begin an attempt; return a record to send to every site with the request."""

    def complete_request(self, site: str, request: RecordDict) -> RecordDict:
        """Return the request of the attempt with what this site alone is sent."""

    def add(self, site: str, content: RecordDict) -> dict[str, np.ndarray] | None:
        """Aggregate one site's reply; return its own statistics if the lead may see them.

        Raises:
            FedhealthError: the reply is invalid; nothing of it was aggregated.

        """

    def close(self, send_follow_up: SendFollowUp) -> Aggregate:
        """End the attempt and return its result.

        Raises:
            AttemptFailedError: too few sites replied; try again.
            FedhealthError: no result is possible.

        """
