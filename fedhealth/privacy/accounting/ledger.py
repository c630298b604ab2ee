"""The privacy ledger: an append-only file of what every run spent on one data set of one site.

An event is booked, and on the disk, before the first training step that it pays for. What became of the booking (a
retry, a release, a failure) is on the disk before the first byte leaves the site (see `booking`). The ledger stores
events, not epsilons, so a better accountant can recompute the past. Lines are chained by hash
(`fedhealth.utils.hash_chain`). A line that was only partly written when the process crashed counts as not written:
nothing followed it, and it is removed when the ledger is next opened. `Ledger.head` is the digest to keep in another
place (the site's audit log).

The expected spending of the runs of a sweep can be reserved before the first of them starts (see `reservations`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from math import inf
from operator import is_
from pathlib import Path
from typing import Any

from fedhealth.errors import PrivacyError
from fedhealth.privacy.accounting.accountant import PrivacyEvent
from fedhealth.privacy.accounting.booking import Booking
from fedhealth.privacy.accounting.ledger_entry import (
    EntryKind,
    LedgerEntry,
    compute_spent_epsilon,
    get_booked_events,
    get_patient_events,
    parse_entry,
)
from fedhealth.privacy.accounting.ledger_lock import hold_lock
from fedhealth.privacy.accounting.limits import (
    BudgetExceededError,
    ClockBehindLedgerError,
    EpsilonLimits,
    find_exceeded_limit,
    find_lifetime_excess,
)
from fedhealth.privacy.accounting.reservations import (
    Reservation,
    RunCost,
    compute_remaining_cost,
    find_active_reservations,
    get_reserved_patient_events,
)
from fedhealth.utils import hash_chain

# How far the clock may be set back between two entries, seconds.
_CLOCK_TOLERANCE = 60.0

_MOST_PARSED = 32  # ledgers whose entries a process keeps, beside the lines that they were parsed from
_parsed: dict[Path, tuple[list[hash_chain.Entry], list[LedgerEntry]]] = {}


class Ledger:
    """An open ledger, locked against other processes. Use `Ledger.open`."""

    def __init__(self, path: Path, clock: Callable[[], float]) -> None:
        self._path, self._clock = path, clock
        self._entries, self._tail = _load_entries(path)
        hash_chain.truncate_torn_entry(path, self._tail)

    @classmethod
    @contextmanager
    def open(cls, path: Path, clock: Callable[[], float] = time.time, wait: float = 0.0) -> Iterator[Ledger]:
        """Open the ledger at `path`, or create it, and hold its lock; wait for it at most `wait` seconds.

        Raises:
            PrivacyError: another process holds the lock, or the chain is broken, edited or cut.

        """
        path.parent.mkdir(parents=True, exist_ok=True)
        with hold_lock(path, wait):
            with _explain_broken_chain(path):
                hash_chain.create_chain(path)
            yield cls(path, clock)

    @property
    def entries(self) -> tuple[LedgerEntry, ...]:
        """All entries, oldest first."""
        return tuple(self._entries)

    @property
    def dataset(self) -> str:
        """Name of the data set."""
        return self._path.stem

    @property
    def head(self) -> str:
        """Hash of the last entry: a digest of the whole history."""
        return self._tail.digest

    def compute_spent_epsilon(self, delta: float, run: str | None = None) -> float:
        """Return epsilon at `delta` of one run in its own unit, or of all runs together for one patient."""
        return compute_spent_epsilon(self._entries, delta, run)

    def get_reservations(self) -> list[Reservation]:
        """Return the reservations that are active at this moment."""
        return find_active_reservations(self._entries, self._clock())

    def find_exceeded_limit(self, cost: RunCost, limits: EpsilonLimits, run: str) -> str:
        """Return which limit more events of a run would exceed and by how much; empty if they exceed none."""
        has_limit = min(limits.lifetime_epsilon, limits.lifetime_local_epsilon) < inf or limits.study is not None
        reservations = self.get_reservations() if has_limit else []
        return find_exceeded_limit(self._entries, reservations, cost, limits, run)

    def book(
        self, run: str, round_: int, unit: str, event: PrivacyEvent, limits: EpsilonLimits, **details: Any
    ) -> LedgerEntry:
        """Book an event before it happens; on return the entry is on the disk.

        Args:
            run: the run's id.
            round_: its round.
            unit: whom the event protects.
            event: the mechanism.
            limits: of the site.
            **details: further fields of the entry: max_records_per_patient, purpose, exchange.

        Raises:
            BudgetExceededError: a limit would be exceeded; the refusal is recorded, nothing is spent.
            PrivacyError: the clock was set back.

        """
        cost = RunCost(unit, (event,), details.get("max_records_per_patient", 1))
        if limits.study is not None:
            details["sweep"] = limits.study.key
        if reason := self.find_exceeded_limit(cost, limits, run):
            self._append("decline", run, round_, unit, event, reason=reason, **details)
            raise BudgetExceededError(reason, "Declined; nothing was spent. Ask for fewer rounds or more noise.")
        return self._append("book", run, round_, unit, event, **details)

    def record_lost_event(self, run: str, cost: RunCost, reason: str) -> None:
        """Count events as spent that were booked in lines that are lost, whatever the limits; on return on the disk.

        Raises:
            PrivacyError: the clock was set back.

        """
        for event in cost.events:
            details = {"max_records_per_patient": cost.max_records_per_patient, "reason": reason}
            self._append("lost", run, 0, cost.unit, event, **details)

    def update_booking(self, kind: EntryKind, booking: Booking, round_: int, **details: Any) -> None:
        """Record what became of a booking; on return it is on the disk.

        Args:
            kind: `retry`, `release` or `fail`.
            booking: open, or released if the same words leave once more.
            round_: of the attempt or the release.
            **details: further fields of the entry: exchange, digest, cites.

        Raises:
            PrivacyError: the booking is closed, or the clock was set back.

        """
        is_repeated = kind == "release" and booking.digest == details.get("digest") != ""
        if booking.state != "open" and not is_repeated:
            raise PrivacyError(f"booking {booking.number} is {booking.state} and cannot be used again", "Book anew.")
        self._append_entry(replace(booking.entry, kind=kind, round=round_, booking=booking.number, **details))

    def record_unbooked_failure(self, run: str) -> None:
        """Record that a task of the run failed before it had booked anything; on return it is on the disk.

        Raises:
            PrivacyError: the clock was set back.

        """
        self._append_entry(LedgerEntry(0, 0.0, "fail", run, 0, "patient", None))

    def reserve(self, sweep: str, costs: Mapping[str, RunCost], expires_at: float, limits: EpsilonLimits) -> None:
        """Replace a sweep's reservations: reserve for each run what it has not booked yet. On return it is on the disk.

        Args:
            sweep: the sweep's id.
            costs: of the whole runs, by run id; empty cancels the sweep's reservations.
            expires_at: when the reservations expire, seconds since 1970.
            limits: `lifetime_epsilon` bounds all booked and reserved events together.

        Raises:
            BudgetExceededError: the budget does not allow it; nothing changes.
            PrivacyError: the clock was set back.

        """
        active = self.get_reservations()
        before = [each for each in active if each.sweep == sweep]
        remaining = {
            run: compute_remaining_cost(cost, get_booked_events(self._entries, run)) for run, cost in costs.items()
        }
        after = [Reservation(run, sweep, cost, expires_at) for run, cost in remaining.items() if cost.events]
        if set(before) == set(after):
            return
        if after:
            self._check_reservable([*(each for each in active if each.sweep != sweep), *after], limits)
        for each in before:
            self._append_reservation("cancel", each)
        for each in after:
            self._append_reservation("reserve", each)

    def update_reservation(self, run: str, cost: RunCost) -> None:
        """Replace a run's reservation, if it has one, by what the run now costs."""
        remaining = compute_remaining_cost(cost, get_booked_events(self._entries, run))
        for each in self.get_reservations():
            if each.run == run and each.cost != remaining:
                self._append_reservation("cancel", each)
                self._append_reservation("reserve", replace(each, cost=remaining))

    def _check_reservable(self, reservations: list[Reservation], limits: EpsilonLimits) -> None:
        """Raise if the booked events and these reservations together exceed the lifetime budget."""
        events = [*get_patient_events(self._entries), *get_reserved_patient_events(reservations)]
        if excess := find_lifetime_excess(events, limits):
            raise BudgetExceededError(
                excess.replace("all runs", "all runs, reserved ones too,", 1),
                "Nothing was reserved. Ask for fewer runs, or for more noise.",
            )

    def _append_reservation(self, kind: EntryKind, reservation: Reservation) -> None:
        cost, sweep, expires_at = reservation.cost, reservation.sweep, reservation.expires_at
        details = {"max_records_per_patient": cost.max_records_per_patient, "sweep": sweep, "expires_at": expires_at}
        for event in cost.events:
            self._append(kind, reservation.run, 0, cost.unit, event, **details)

    def _append(
        self, kind: EntryKind, run: str, round_: int, unit: str, event: PrivacyEvent, **details: Any
    ) -> LedgerEntry:
        return self._append_entry(LedgerEntry(0, 0.0, kind, run, round_, unit, event, **details))

    def _append_entry(self, draft: LedgerEntry) -> LedgerEntry:
        """Append an entry under the next number and the present time."""
        now, last = self._clock(), self._entries[-1].time if self._entries else 0.0
        if now < last - _CLOCK_TOLERANCE:
            raise ClockBehindLedgerError(
                f"the clock is {last - now:.0f} s behind the last entry of {self._path.name}",
                "Set the machine's clock; nothing was spent.",
            )
        entry = replace(draft, number=len(self._entries) + 1, time=max(now, last))
        self._tail = hash_chain.append_entry(self._path, self._tail, asdict(entry))
        self._entries.append(entry)
        return entry


def verify_ledger(path: Path) -> tuple[LedgerEntry, ...]:
    """Read and check a ledger without the lock and without changing it.

    Raises:
        PrivacyError: the ledger does not exist, or its chain is broken, edited or cut.

    """
    if not path.exists() and not hash_chain.get_head_path(path).exists():
        raise PrivacyError(f"there is no ledger {path.name}", "It is created by the first private run.")
    return tuple(_load_entries(path)[0])


def read_ledger_digest(path: Path) -> str:
    """Check a ledger and return the hash of its last entry: the digest to keep in another place.

    Raises:
        PrivacyError: the ledger was edited, cut or damaged.

    """
    return _load_entries(path)[1].digest


def _load_entries(path: Path) -> tuple[list[LedgerEntry], hash_chain.ChainTail]:
    """Return the checked entries, and where the ledger ends."""
    with _explain_broken_chain(path):
        bodies, tail = hash_chain.load_chain(path)
        known, parsed = _parsed.get(path, ([], []))
        same = len(known) if len(known) <= len(bodies) and all(map(is_, known, bodies)) else 0
        entries = [*parsed[:same], *map(parse_entry, bodies[same:])]
    _parsed[path] = bodies, entries
    if len(_parsed) > _MOST_PARSED:
        del _parsed[next(iter(_parsed))]
    return list(entries), tail


@contextmanager
def _explain_broken_chain(path: Path) -> Iterator[None]:
    """Raise a broken chain as a PrivacyError that says what to do."""
    try:
        yield
    except hash_chain.BrokenChainError as error:
        raise PrivacyError(
            f"the privacy ledger {path.name} was edited, cut or damaged: {error}",
            "Restore it from a backup together with its head file; without it, training on this data set is refused.",
        ) from error
