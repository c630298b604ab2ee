"""The privacy ledger: an append-only file of what every run spent on one data set of one site.

An event is booked, and on the disk, before the first training step that it pays for. The ledger stores events, not
epsilons, so a better accountant can recompute the past. Lines are chained by hash (`fedhealth.utils.hash_chain`). A
line that was only partly written when the process crashed counts as not booked: no step followed it, and it is removed
when the ledger is next opened. `Ledger.head` is the digest to keep in another place (the site's audit log).

The expected spending of the runs of a sweep can be reserved before the first of them starts (see `reservations`).
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from fedhealth.errors import PrivacyError
from fedhealth.privacy.accounting.accountant import PrivacyEvent, compute_epsilon, compute_epsilon_rdp
from fedhealth.privacy.accounting.ledger_entry import (
    EntryKind,
    LedgerEntry,
    compute_spent_epsilon,
    get_booked_events,
    parse_entry,
)
from fedhealth.privacy.accounting.reservations import (
    Reservation,
    RunCost,
    compute_remaining_events,
    find_active_reservations,
    get_reserved_events,
)
from fedhealth.utils import hash_chain

# How far the clock may be set back between two entries, seconds.
_CLOCK_TOLERANCE = 60.0


@dataclass(frozen=True)
class EpsilonLimits:
    """The most that may be spent, measured at `delta`.

    Attributes:
        delta: at which epsilon is measured.
        run_epsilon: epsilon of any one run.
        lifetime_epsilon: epsilon of all runs on this data set together.

    """

    delta: float
    run_epsilon: float = float("inf")
    lifetime_epsilon: float = float("inf")


class BudgetExceededError(PrivacyError):
    """The booked and reserved events together would exceed the budget of the data set."""


class Ledger:
    """An open ledger, locked against other processes. Use `Ledger.open`."""

    def __init__(self, path: Path, clock: Callable[[], float]) -> None:
        self._path, self._clock = path, clock
        self._entries, self._tail = _load_entries(path)
        hash_chain.truncate_torn_entry(path, self._tail)

    @classmethod
    @contextmanager
    def open(cls, path: Path, clock: Callable[[], float] = time.time) -> Iterator[Ledger]:
        """Open the ledger at `path`, or create it, and hold its lock.

        Raises:
            PrivacyError: another process holds the lock, or the chain is broken, edited or cut.

        """
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_suffix(".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise PrivacyError(
                    f"another run is using the data set of {path.name}", "Wait for it to end; nothing was spent."
                ) from error
            with _explain_broken_chain(path):
                hash_chain.create_chain(path)
            yield cls(path, clock)

    @property
    def entries(self) -> tuple[LedgerEntry, ...]:
        """All entries, oldest first."""
        return tuple(self._entries)

    @property
    def head(self) -> str:
        """Hash of the last entry: a digest of the whole history."""
        return self._tail.digest

    def compute_spent_epsilon(self, delta: float, run: str | None = None) -> float:
        """Return epsilon at `delta` of one run, or of all runs together."""
        return compute_spent_epsilon(self._entries, delta, run)

    def get_reservations(self) -> list[Reservation]:
        """Return the reservations that are active at this moment."""
        return find_active_reservations(self._entries, self._clock())

    def find_exceeded_limit(self, event: PrivacyEvent, limits: EpsilonLimits, run: str) -> str:
        """Return which limit the event would exceed and by how much; empty if it exceeds none."""
        for limit, scope, name in (
            (limits.run_epsilon, run, f"run {run}"),
            (limits.lifetime_epsilon, None, "all runs on this data set"),
        ):
            if limit == float("inf"):
                continue
            others = [] if scope else [each for each in self.get_reservations() if each.run != run]
            events = [*get_booked_events(self._entries, scope), *get_reserved_events(others), event]
            if compute_epsilon_rdp(events, limits.delta) <= limit:  # never below the exact value, and faster
                continue
            total = compute_epsilon(events, limits.delta)
            if total > limit:
                return f"epsilon {total:.3f} of {name} would exceed {limit:g} at delta {limits.delta:g}"
        return ""

    def book(self, run: str, round_: int, unit: str, event: PrivacyEvent, limits: EpsilonLimits) -> LedgerEntry:
        """Book an event before it happens; on return the entry is on the disk.

        Raises:
            PrivacyError: a limit would be exceeded (the refusal is recorded, nothing is spent), or the clock was set
                back.

        """
        reason = self.find_exceeded_limit(event, limits, run)
        if reason:
            self._append("decline", run, round_, unit, event, reason=reason)
            raise PrivacyError(reason, "This round is declined; nothing was spent. Ask for fewer rounds or more noise.")
        return self._append("book", run, round_, unit, event)

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
        after = [
            Reservation(run, sweep, cost.unit, events, expires_at)
            for run, cost in costs.items()
            if (events := compute_remaining_events(cost, get_booked_events(self._entries, run)))
        ]
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
        events = compute_remaining_events(cost, get_booked_events(self._entries, run))
        for each in self.get_reservations():
            if each.run == run and each.events != events:
                self._append_reservation("cancel", each)
                self._append_reservation("reserve", replace(each, unit=cost.unit, events=events))

    def _check_reservable(self, reservations: list[Reservation], limits: EpsilonLimits) -> None:
        """Raise if the booked events and these reservations together exceed the lifetime budget."""
        if limits.lifetime_epsilon == float("inf"):
            return
        total = compute_epsilon([*get_booked_events(self._entries), *get_reserved_events(reservations)], limits.delta)
        if total > limits.lifetime_epsilon:
            raise BudgetExceededError(
                f"epsilon {total:.3f} of all runs, reserved ones too, would exceed {limits.lifetime_epsilon:g}",
                "Nothing was reserved. Ask for fewer runs, or for more noise.",
            )

    def _append_reservation(self, kind: EntryKind, reservation: Reservation) -> None:
        sweep, expires_at = reservation.sweep, reservation.expires_at
        for event in reservation.events:
            self._append(kind, reservation.run, 0, reservation.unit, event, sweep=sweep, expires_at=expires_at)

    def _append(
        self, kind: EntryKind, run: str, round_: int, unit: str, event: PrivacyEvent, **details: Any
    ) -> LedgerEntry:
        now, last = self._clock(), self._entries[-1].time if self._entries else 0.0
        if now < last - _CLOCK_TOLERANCE:
            raise PrivacyError(
                f"the clock is {last - now:.0f} s behind the last entry of {self._path.name}",
                "Set the machine's clock; nothing was spent.",
            )
        entry = LedgerEntry(len(self._entries) + 1, max(now, last), kind, run, round_, unit, event, **details)
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
        return [parse_entry(body) for body in bodies], tail


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
