"""The privacy ledger: what every run spent on one data set of one site, in a file that only grows.

A line is booked, and on the disk, before the first step it pays for. It holds the event, not an epsilon, so a better
accountant re-reads the past. Lines are chained by hash (`fedhealth.chain`); a line that a crash tore was never booked:
nothing was done on it, and it is removed when the ledger is next opened. `Ledger.head` is the digest to keep in another
place (the site's audit log).
"""

import fcntl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from fedhealth import chain
from fedhealth.errors import PrivacyError
from fedhealth.privacy.accountant import Event, epsilon, epsilon_online

# A clock may be put right by this much between two bookings, seconds.
_CLOCK_TOLERANCE = 60.0


@dataclass(frozen=True)
class Entry:
    """One line.

    Attributes:
        number: 1, 2, ...
        time: seconds since 1970, never decreasing.
        kind: `book` for an event that counts as spent, `decline` for one that was refused.
        run: who asked.
        round: which round or exchange of it.
        unit: whom the event protects.
        event: the mechanism.
        note: why it was declined.

    """

    number: int
    time: float
    kind: Literal["book", "decline"]
    run: str
    round: int
    unit: str
    event: Event
    note: str = ""


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


class Ledger:
    """An open ledger; only one process at a time has it. Use `Ledger.open`."""

    def __init__(self, path: Path, clock: Callable[[], float]) -> None:
        self._path, self._clock = path, clock
        self._entries, self._end = _recover(path)
        chain.repair(path, self._end)

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
                chain.begin(path)
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
            events = [*_booked(self._entries, scope), event]
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

    def _append(
        self, kind: Literal["book", "decline"], run: str, round_: int, unit: str, event: Event, note: str
    ) -> Entry:
        now, last = self._clock(), self._entries[-1].time if self._entries else 0.0
        if now < last - _CLOCK_TOLERANCE:
            raise PrivacyError(
                f"the clock is {last - now:.0f} s behind the last entry of {self._path.name}",
                "Set the machine's clock; nothing was spent.",
            )
        entry = Entry(len(self._entries) + 1, max(now, last), kind, run, round_, unit, event, note)
        self._end = chain.append(self._path, self._end, asdict(entry))
        self._entries.append(entry)
        return entry


def verify(path: Path) -> tuple[Entry, ...]:
    """Read and check a ledger without the lock and without changing it.

    Raises:
        PrivacyError: when it does not exist, or its chain is broken, edited or cut.

    """
    if not path.exists() and not chain.head_path(path).exists():
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


def _recover(path: Path) -> tuple[list[Entry], chain.Tail]:
    """Return the entries, checked, and where the ledger ends."""
    with _explained(path):
        bodies, end = chain.recover(path)
        return [_entry(body) for body in bodies], end


def _entry(fields: Mapping[str, Any]) -> Entry:
    try:
        return Entry(**{**fields, "event": Event(**fields["event"])})
    except (TypeError, KeyError, PrivacyError) as error:
        raise chain.BrokenChainError("a line cannot be read") from error


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except chain.BrokenChainError as error:
        raise _broken(path, str(error)) from error


def _broken(path: Path, fault: str) -> PrivacyError:
    return PrivacyError(
        f"the privacy ledger {path.name} was edited, cut or damaged: {fault}",
        "Restore it from a backup together with its head file; without it nothing may be trained on this data set.",
    )
