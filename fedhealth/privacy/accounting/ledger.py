"""The privacy ledger: what every run spent on one data set of one site, in a file that only grows.

A line is booked, and on the disk, before the first step it pays for. It holds the event, not an epsilon, so a better
accountant re-reads the past. Lines are chained by hash (`fedhealth.utils.hash_chain`); a line that a crash tore was never booked:
nothing was done on it, and it is removed when the ledger is next opened. `Ledger.head` is the digest to keep in another
place (the site's audit log).

What the runs of a sweep are going to spend can be reserved before the first of them (`fedhealth.privacy.accounting.reservations`).
"""

import fcntl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from fedhealth.errors import PrivacyError
from fedhealth.privacy.accounting.accountant import Event, epsilon, epsilon_online
from fedhealth.privacy.accounting.reservations import Cost, Reservation, events_of, remaining, reservations
from fedhealth.utils import hash_chain

Kind = Literal["book", "decline", "reserve", "release"]

# A clock may be put right by this much between two bookings, seconds.
_CLOCK_TOLERANCE = 60.0


@dataclass(frozen=True)
class Entry:
    """One line.

    Attributes:
        number: 1, 2, ...
        time: seconds since 1970, never decreasing.
        kind: `book` for an event that counts as spent, `decline` for one that was refused, `reserve` for one that is
            kept for a run, `release` for one that is kept no longer.
        run: who asked.
        round: which round or exchange of it.
        unit: whom the event protects.
        event: the mechanism.
        note: why it was declined; of what is kept, the sweep.
        until: when what is kept lapses, seconds since 1970.

    """

    number: int
    time: float
    kind: Kind
    run: str
    round: int
    unit: str
    event: Event
    note: str = ""
    until: float = 0.0


@dataclass(frozen=True)
class Budget:
    """The most that may be spent, at `delta`.

    Attributes:
        delta: at which epsilon is measured.
        run: epsilon of any one run.
        life: epsilon of all runs on this data set together.

    """

    delta: float
    run: float = float("inf")
    life: float = float("inf")


class OverBudgetError(PrivacyError):
    """What is booked and reserved would exceed what may ever be spent."""


class Ledger:
    """An open ledger; only one process at a time has it. Use `Ledger.open`."""

    def __init__(self, path: Path, clock: Callable[[], float]) -> None:
        self._path, self._clock = path, clock
        self._entries, self._end = _recover(path)
        hash_chain.repair(path, self._end)

    @classmethod
    @contextmanager
    def open(cls, path: Path, clock: Callable[[], float] = time.time) -> Iterator["Ledger"]:
        """Open or begin the ledger at `path` and hold its lock.

        Raises:
            PrivacyError: when another process has it, or its chain is broken, edited or cut.

        """
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_suffix(".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise PrivacyError(
                    f"another run is using the data set of {path.name}", "Wait for it to end; nothing was spent."
                ) from error
            with _explained(path):
                hash_chain.begin(path)
            yield cls(path, clock)

    @property
    def entries(self) -> tuple[Entry, ...]:
        """All lines, oldest first."""
        return tuple(self._entries)

    @property
    def head(self) -> str:
        """Hash of the last line: a digest of the whole history."""
        return self._end.digest

    def spent(self, delta: float, run: str | None = None) -> float:
        """Return epsilon at `delta` of one run, or of all runs together."""
        return spent(self._entries, delta, run)

    def would_exceed(self, event: Event, budget: Budget, run: str) -> str:
        """Return which limit the event would break and by how much; empty when it may go on."""
        for limit, scope, name in ((budget.run, run, f"run {run}"), (budget.life, None, "all runs on this data set")):
            if limit == float("inf"):
                continue
            kept = [] if scope else events_of([held for held in self.reservations() if held.run != run])
            events = [*_booked(self._entries, scope), *kept, event]
            if epsilon_online(events, budget.delta) <= limit:  # never below the exact value: no need to ask further
                continue
            total = epsilon(events, budget.delta)
            if total > limit:
                return f"epsilon {total:.3f} of {name} would exceed {limit:g} at delta {budget.delta:g}"
        return ""

    def reserve(self, run: str, round_: int, unit: str, event: Event, budget: Budget) -> Entry:
        """Book the event before anything is done with it; returning means it is on the disk.

        Raises:
            PrivacyError: when a limit would be exceeded (the refusal is noted, nothing is spent) or the clock went
                backwards.

        """
        fault = self.would_exceed(event, budget, run)
        if fault:
            self._append("decline", run, round_, unit, event, fault)
            raise PrivacyError(fault, "This round is declined; nothing was spent. Ask for fewer rounds or more noise.")
        return self._append("book", run, round_, unit, event, "")

    def reservations(self) -> list[Reservation]:
        """Return what is kept for runs at this moment."""
        return reservations(self._entries, self._clock())

    def hold(self, sweep: str, costs: Mapping[str, Cost], until: float, budget: Budget) -> None:
        """Keep for each run what it will still book, instead of what the sweep had kept before; on the disk on return.

        Args:
            sweep: who asks.
            costs: by run, the whole run's; what it has booked already is not kept again. None gives everything back.
            until: when this lapses, seconds since 1970.
            budget: its `life` bounds what is booked and kept in all.

        Raises:
            OverBudgetError: the budget does not allow it; nothing changes.
            PrivacyError: the clock went backwards.

        """
        now = self.reservations()
        before = [held for held in now if held.sweep == sweep]
        after = [
            Reservation(run, sweep, cost.unit, events, until)
            for run, cost in costs.items()
            if (events := remaining(cost, _booked(self._entries, run)))
        ]
        if set(before) == set(after):
            return
        if after and budget.life < float("inf"):
            others = [held for held in now if held.sweep != sweep]
            total = epsilon([*_booked(self._entries, None), *events_of([*others, *after])], budget.delta)
            if total > budget.life:
                raise OverBudgetError(
                    f"epsilon {total:.3f} of all runs, reserved ones too, would exceed {budget.life:g}",
                    "Nothing was reserved. Ask for fewer runs, or for more noise.",
                )
        for held in before:
            self._keep("release", held)
        for held in after:
            self._keep("reserve", held)

    def amend(self, run: str, cost: Cost) -> None:
        """Keep what a run now turns out to cost instead of what was reserved for it, where something was."""
        events = remaining(cost, _booked(self._entries, run))
        for held in self.reservations():
            if held.run == run and held.events != events:
                self._keep("release", held)
                self._keep("reserve", replace(held, unit=cost.unit, events=events))

    def _keep(self, kind: Kind, held: Reservation) -> None:
        for event in held.events:
            self._append(kind, held.run, 0, held.unit, event, held.sweep, held.until)

    def _append(
        self, kind: Kind, run: str, round_: int, unit: str, event: Event, note: str, until: float = 0.0
    ) -> Entry:
        now, last = self._clock(), self._entries[-1].time if self._entries else 0.0
        if now < last - _CLOCK_TOLERANCE:
            raise PrivacyError(
                f"the clock is {last - now:.0f} s behind the last entry of {self._path.name}",
                "Set the machine's clock; nothing was spent.",
            )
        entry = Entry(len(self._entries) + 1, max(now, last), kind, run, round_, unit, event, note, until)
        self._end = hash_chain.append(self._path, self._end, asdict(entry))
        self._entries.append(entry)
        return entry


def verify(path: Path) -> tuple[Entry, ...]:
    """Read and check a ledger without the lock and without changing it.

    Raises:
        PrivacyError: when it does not exist, or its chain is broken, edited or cut.

    """
    if not path.exists() and not hash_chain.head_path(path).exists():
        raise PrivacyError(f"there is no ledger {path.name}", "It begins with the first private run.")
    return tuple(_recover(path)[0])


def digest_of(path: Path) -> str:
    """Return the hash of a ledger's last line, checked: the digest to keep in another place.

    Raises:
        PrivacyError: the ledger was edited, cut or damaged.

    """
    return _recover(path)[1].digest


def spent(entries: list[Entry] | tuple[Entry, ...], delta: float, run: str | None = None) -> float:
    """Return epsilon at `delta` of the booked entries, of one run or of all."""
    return epsilon(_booked(entries, run), delta)


def _booked(entries: list[Entry] | tuple[Entry, ...], run: str | None) -> list[Event]:
    return [e.event for e in entries if e.kind == "book" and run in (None, e.run)]


def _recover(path: Path) -> tuple[list[Entry], hash_chain.Tail]:
    """Return the entries, checked, and where the ledger ends."""
    with _explained(path):
        bodies, end = hash_chain.recover(path)
        return [_entry(body) for body in bodies], end


def _entry(fields: Mapping[str, Any]) -> Entry:
    try:
        return Entry(**{**fields, "event": Event(**fields["event"])})
    except (TypeError, KeyError, PrivacyError) as error:
        raise hash_chain.BrokenChainError("a line cannot be read") from error


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except hash_chain.BrokenChainError as error:
        raise _broken(path, str(error)) from error


def _broken(path: Path, fault: str) -> PrivacyError:
    return PrivacyError(
        f"the privacy ledger {path.name} was edited, cut or damaged: {fault}",
        "Restore it from a backup together with its head file; without it nothing may be trained on this data set.",
    )
