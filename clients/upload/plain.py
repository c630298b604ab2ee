"""Send the update and the statistics as they are: the lead sees each site's own."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from flwr.app import RecordDict

from clients.upload.contract import Seat
from fedhealth.errors import SecureAggregationError
from fedhealth.training.state import State
from fedhealth.wire import STATISTICS, UPDATE, Directive, pack


class PlainTicket:
    """Everything goes into the sum, in the open."""

    def sums(self, tower: str) -> bool:
        """Return True."""
        return True

    def kept(self) -> RecordDict | None:
        """Return None: nothing is kept."""
        return None

    def seal(self, update: State, statistics: Mapping[str, np.ndarray]) -> RecordDict:
        """Return the records of the answer."""
        answer = RecordDict({STATISTICS: pack(dict(statistics))})
        if update:
            answer[UPDATE] = pack(update)
        return answer


class PlainUpload:
    """No secure aggregation."""

    def join(self, seat: Seat, rows: Mapping[str, int]) -> tuple[dict[str, float], RecordDict]:
        """Announce exact counts."""
        return {tower: float(count) for tower, count in rows.items()}, RecordDict()

    def accept(self, seat: Seat, kind: str, directive: Directive, incoming: State, content: RecordDict) -> PlainTicket:
        """Agree to anything: the lead sees everything in any case."""
        return PlainTicket()

    def answer(self, seat: Seat, kind: str, content: RecordDict) -> RecordDict:
        """Refuse: this site runs without secure aggregation."""
        raise SecureAggregationError("This run has no secure aggregation.", "Use secagg=on at lead and sites.")
