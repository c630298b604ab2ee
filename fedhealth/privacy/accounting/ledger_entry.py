"""One line of the privacy ledger, and what the booked lines cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from fedhealth.errors import PrivacyError
from fedhealth.privacy.accounting.accountant import PrivacyEvent, compute_epsilon
from fedhealth.privacy.accounting.units import convert_to_patient
from fedhealth.utils import hash_chain

EntryKind = Literal["book", "retry", "release", "fail", "decline", "reserve", "cancel", "lost"]
SPENT_KINDS = ("book", "lost")
"""The lines whose events count as spent."""
LIFETIME_DELTA = 1e-6
"""Delta at which all runs on a data set are measured together, unless the site's policy says otherwise."""


@dataclass(frozen=True)
class LedgerEntry:
    """One line of a ledger.

    Attributes:
        number: 1, 2, ...
        time: seconds since 1970, never decreasing.
        kind: `book` for an event that counts as spent; `retry`, `release` and `fail` for what became of a booking (see
            `booking`); `fail` also for a task that failed before it had booked anything; `decline` for an event that
            was refused; `reserve` for an event that is reserved for a run, `cancel` for a reserved event that is no
            longer reserved; `lost` for an event that counts as spent because it was, or may have been, booked in lines
            that a restored machine has lost.
        run: the run that the event belongs to.
        round: its round; 0 for reservations.
        unit: whom the event protects.
        event: the mechanism, in the run's own unit; None only of a failure without a booking.
        max_records_per_patient: the most studies of one patient that the event uses, for unit `record`.
        purpose: of the request: `train`, `evaluate` or `describe`.
        exchange: number of the exchange of the request.
        booking: number of the booking that a `retry`, `release` or `fail` refers to; 0 for a failure without one.
        digest: of a `release`: the keyed digest of the words that left.
        cites: of a `release`: numbers of earlier bookings whose results the words contain too.
        reason: why the event was declined, or how it was lost.
        sweep: the sweep or study that a reservation belongs to; the study that a booking does.
        expires_at: when a reservation expires, seconds since 1970.

    """

    number: int
    time: float
    kind: EntryKind
    run: str
    round: int
    unit: str
    event: PrivacyEvent | None
    max_records_per_patient: int = 1
    purpose: str = "train"
    exchange: int = 0
    booking: int = 0
    digest: str = ""
    cites: tuple[int, ...] = ()
    reason: str = ""
    sweep: str = ""
    expires_at: float = 0.0

    @property
    def mechanism(self) -> PrivacyEvent:
        """The event.

        Raises:
            PrivacyError: the entry is a failure without a booking, which has none.

        """
        if self.event is None:
            raise PrivacyError(f"line {self.number} of the ledger has no event", "Only bookings spend.")
        return self.event

    @property
    def patient_event(self) -> PrivacyEvent:
        """What the event costs one patient."""
        return convert_to_patient(self.mechanism, self.unit, self.max_records_per_patient)


_KINDS = frozenset(get_args(EntryKind))


def parse_entry(fields: Mapping[str, Any]) -> LedgerEntry:
    """Return an entry from the fields of its JSON object.

    Raises:
        BrokenChainError: the fields are not those of an entry.

    """
    try:
        cites = tuple(map(int, fields["cites"]))
        event = None if _has_no_event(fields) else PrivacyEvent(**fields["event"])
        entry = LedgerEntry(**{**fields, "event": event, "cites": cites})
    except (TypeError, ValueError, KeyError, PrivacyError) as error:
        raise hash_chain.BrokenChainError("a line cannot be read") from error
    if entry.kind not in _KINDS:
        raise hash_chain.BrokenChainError(f"a line has the unknown kind {entry.kind!r}")
    return entry


def _has_no_event(fields: Mapping[str, Any]) -> bool:
    return fields["event"] is None and fields["kind"] == "fail" and fields["booking"] == 0


def get_booked_events(entries: Sequence[LedgerEntry], run: str | None = None) -> list[PrivacyEvent]:
    """Return the booked events of one run, or of all runs, each in its run's own unit."""
    return [entry.mechanism for entry in entries if entry.kind in SPENT_KINDS and run in (None, entry.run)]


def get_patient_events(entries: Sequence[LedgerEntry]) -> list[PrivacyEvent]:
    """Return what the booked events of all runs cost one patient."""
    return [entry.patient_event for entry in entries if entry.kind in SPENT_KINDS]


def compute_spent_epsilon(entries: Sequence[LedgerEntry], delta: float, run: str | None = None) -> float:
    """Return epsilon at `delta` of the booked entries: of one run in its own unit, or of all runs for one patient."""
    return compute_epsilon(get_patient_events(entries) if run is None else get_booked_events(entries, run), delta)
