"""What aggregations of plaintext replies have in common: nothing of a round outlives it; nothing is resumed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flwr.app import RecordDict

from fedhealth.types import State
from strategies.aggregation.base import Aggregate, RoundAttempt


class StatelessAggregation:
    """The steps of `strategies.aggregation.base.Aggregation` that need stored state or a secure sum do nothing here.

    Arrays of the model are float32 by name, statistics int64 by name.
    """

    last_exchange = 0
    sees_single_updates = True
    required_sites = 1

    def start(self, run: str, digest: str, folder: Path) -> None:
        """Do nothing: there is no state to store."""

    def admit(self, site: str, content: RecordDict) -> None:
        """Do nothing: there is nothing to check."""

    def begin_history(self, initial: State, head: str) -> None:
        """Do nothing: the sites are shown no history."""

    def advance_history(self, aggregate: Aggregate, arrays: State) -> str:
        """Return no head."""
        return ""

    def look_back(self, head: str) -> None:
        """Do nothing: the sites are shown no history."""

    def load_opened(self, kind: str, number: int, incoming: State) -> None:
        """Return None: nothing is stored."""

    def find_repetition(self, kind: str, number: int, incoming: State) -> int:
        """Return 0: sites repeat an answer to the same request on their own."""
        return 0

    def choose_sites(self, kind: str, sites: Sequence[str]) -> tuple[str, ...]:
        """Return all of them."""
        return tuple(sites)

    def give_up(self) -> None:
        """Do nothing: there is no sum to open."""

    def complete_request(self, site: str, request: RecordDict) -> RecordDict:
        """Return the request: it is the same for all sites."""
        return request

    def resume(self, attempt: RoundAttempt, saved_exchange: int) -> None:
        """Return None: the sum is not stored."""
