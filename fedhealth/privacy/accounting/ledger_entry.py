"""One line of the privacy ledger, and what the booked lines cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fedhealth.errors import PrivacyError
from fedhealth.privacy.accounting.accountant import PrivacyEvent, compute_epsilon
from fedhealth.utils import hash_chain

EntryKind = Literal["book", "decline", "reserve", "cancel"]


@dataclass(frozen=True)
class LedgerEntry:
    """One line of a ledger.

    Attributes:
        number: 1, 2, ...
        time: seconds since 1970, never decreasing.
        kind: `book` for an event that counts as spent, `decline` for an event that was refused, `reserve` for an event
            that is reserved for a run, `cancel` for a reserved event that is no longer reserved.
        run: the run that the event belongs to.
        round: its round; 0 for reservations.
        unit: whom the event protects.
        event: the mechanism.
        reason: why the event was declined.
        sweep: the sweep that a reservation belongs to.
        expires_at: when a reservation expires, seconds since 1970.

    """

    number: int
    time: float
    kind: EntryKind
    run: str
    round: int
    unit: str
    event: PrivacyEvent
    reason: str = ""
    sweep: str = ""
    expires_at: float = 0.0


def parse_entry(fields: Mapping[str, Any]) -> LedgerEntry:
    """Return an entry from the fields of its JSON object.

    Raises:
        BrokenChainError: the fields are not those of an entry.

    """
    try:
        return LedgerEntry(**{**fields, "event": PrivacyEvent(**fields["event"])})
    except (TypeError, KeyError, PrivacyError) as error:
        raise hash_chain.BrokenChainError("a line cannot be read") from error


def get_booked_events(entries: Sequence[LedgerEntry], run: str | None = None) -> list[PrivacyEvent]:
    """Return the booked events of one run, or of all runs."""
    return [entry.event for entry in entries if entry.kind == "book" and run in (None, entry.run)]


def compute_spent_epsilon(entries: Sequence[LedgerEntry], delta: float, run: str | None = None) -> float:
    """Return epsilon at `delta` of the booked entries of one run, or of all runs together."""
    return compute_epsilon(get_booked_events(entries, run), delta)
