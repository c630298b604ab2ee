"""Bookings: events that were booked before they happened, and what became of each.

A booking is open until a result of it leaves the site (`release`) or an error reply does (`fail`). It pays for one
result. While it is open, nothing of it has left: the training may start again under it. Afterwards it is never used
again; only the same words may leave once more.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from fedhealth.privacy.accounting.accountant import PrivacyEvent
from fedhealth.privacy.accounting.ledger_entry import LedgerEntry

MAX_RETRIES = 3
"""How often training may start again under one booking."""


@dataclass(frozen=True)
class Booking:
    """A booking and its state.

    Attributes:
        entry: the line that booked the event.
        rounds: the round of every attempt, the first one included.
        state: `open`, `released` or `failed`.
        digest: of the words that left; empty if none did.
        cites: numbers of the earlier bookings that these words contain results of.
        exchanges: the exchanges in which they left.

    """

    entry: LedgerEntry
    rounds: tuple[int, ...]
    state: Literal["open", "released", "failed"] = "open"
    digest: str = ""
    cites: tuple[int, ...] = ()
    exchanges: frozenset[int] = frozenset()

    @property
    def number(self) -> int:
        """Number of the line that booked the event."""
        return self.entry.number

    def can_retry(self, event: PrivacyEvent) -> bool:
        """Return whether an equal event may be tried again under this booking."""
        return self.state == "open" and self.entry.event == event and len(self.rounds) <= MAX_RETRIES

    def apply(self, entry: LedgerEntry) -> Booking:
        """Return the booking after a later line that refers to it."""
        if entry.kind == "retry":
            return replace(self, rounds=(*self.rounds, entry.round))
        if entry.kind == "release":
            exchanges = self.exchanges | {entry.exchange}
            return replace(self, state="released", digest=entry.digest, cites=entry.cites, exchanges=exchanges)
        return replace(self, state="failed")


def find_bookings(entries: Iterable[LedgerEntry], run: str, purpose: str | None = None) -> list[Booking]:
    """Return the bookings of a run, oldest first; of one purpose, or of all."""
    found: dict[int, Booking] = {}
    for entry in entries:
        if entry.run != run:
            continue
        if entry.kind == "book" and purpose in (None, entry.purpose):
            found[entry.number] = Booking(entry, (entry.round,))
        elif entry.kind in ("retry", "release", "fail") and entry.booking in found:
            found[entry.booking] = found[entry.booking].apply(entry)
    return list(found.values())


def find_open_booking(entries: Iterable[LedgerEntry], run: str, purpose: str) -> Booking | None:
    """Return the open booking of a run and purpose; there is at most one."""
    return next((each for each in find_bookings(entries, run, purpose) if each.state == "open"), None)
