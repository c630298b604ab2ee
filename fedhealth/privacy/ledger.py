"""The privacy ledger: what every run spent on one data set of one site, in a file that only grows.

A line is booked, and on the disk, before the first step it pays for. It holds the event, not an epsilon, so a better
accountant re-reads the past. Lines are chained by hash; a small head file beside the ledger holds the last line's
number and hash, so that a cut end shows. A crash in the middle of a write leaves a torn last line that no booking
call ever returned for: nothing was done on it, and it is removed when the ledger is next opened.

The chain shows accidents and edits; whoever may write both files can forge both. `Ledger.head` is the digest to keep in
another place (the site's audit log).
"""

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from fedhealth.errors import PrivacyError
from fedhealth.privacy.accountant import Event, epsilon, epsilon_online

_START = "0" * 64
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
        self._entries, self._hash, size = _recover(path)
        with path.open("r+b") as file:
            file.truncate(size)
            os.fsync(file.fileno())
        _write_head(path, len(self._entries), self._hash)

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
            _begin(path)
            yield cls(path, clock)

    @property
    def entries(self) -> tuple[Entry, ...]:
        """All lines, oldest first."""
        return tuple(self._entries)

    @property
    def head(self) -> str:
        """Hash of the last line: a digest of the whole history."""
        return self._hash

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
        line, digest = _line(entry, self._hash)
        with self._path.open("ab") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        self._entries.append(entry)
        self._hash = digest
        _write_head(self._path, entry.number, digest)
        return entry


def verify(path: Path) -> tuple[Entry, ...]:
    """Read and check a ledger without the lock and without changing it.

    Raises:
        PrivacyError: when it does not exist, or its chain is broken, edited or cut.

    """
    if not path.exists() and not _head_path(path).exists():
        raise PrivacyError(f"there is no ledger {path.name}", "It begins with the first private run.")
    return tuple(_recover(path)[0])


def digest_of(path: Path) -> str:
    """Return the hash of a ledger's last line, checked: the digest to keep in another place.

    Raises:
        PrivacyError: the ledger was edited, cut or damaged.

    """
    return _recover(path)[1]


def spent(entries: list[Entry] | tuple[Entry, ...], delta: float, run: str | None = None) -> float:
    """Return epsilon at `delta` of the booked entries, of one run or of all."""
    return epsilon(_booked(entries, run), delta)


def _booked(entries: list[Entry] | tuple[Entry, ...], run: str | None) -> list[Event]:
    return [e.event for e in entries if e.kind == "book" and run in (None, e.run)]


def _begin(path: Path) -> None:
    """Make the files of a new ledger: the head first, so that a ledger is never without."""
    if not path.exists() and (not _head_path(path).exists() or _read_head(path)[0] == 0):
        _write_head(path, 0, _START)
        with path.open("xb") as file:
            os.fsync(file.fileno())
        _sync_folder(path)


def _recover(path: Path) -> tuple[list[Entry], str, int]:
    """Return the entries, the last hash, and the length in bytes up to which the file is whole."""
    if not path.exists():
        raise _broken(path, "the file is gone, its head is not")
    expected, head = _read_head(path)
    entries: list[Entry] = []
    digest, size, passed_head = _START, 0, expected == 0
    for line in path.read_bytes().splitlines(keepends=True):
        if not line.endswith(b"\n"):
            break  # torn by a crash; if it was ever booked, the head below tells
        entry, digest = _parse(line, digest, path)
        entries.append(entry)
        size += len(line)
        if entry.number != len(entries):
            raise _broken(path, f"entry {len(entries)} is numbered {entry.number}")
        if entry.number == expected:
            passed_head = True
            if digest != head:
                raise _broken(path, f"entry {expected} is not the one the head file names")
    if not passed_head:
        raise _broken(path, f"{expected} entries were booked, {len(entries)} are left")
    if len(entries) > expected + 1:
        raise _broken(path, f"{len(entries)} entries, but the head file knows {expected}")
    return entries, digest, size


def _line(entry: Entry, previous: str) -> tuple[bytes, str]:
    body = json.dumps(asdict(entry), sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(f"{previous}{body}".encode()).hexdigest()
    return f'{{"entry":{body},"hash":"{digest}"}}\n'.encode(), digest


def _parse(line: bytes, previous: str, path: Path) -> tuple[Entry, str]:
    try:
        fields: dict[str, Any] = json.loads(line)["entry"]
        entry = Entry(**{**fields, "event": Event(**fields["event"])})
    except (ValueError, TypeError, KeyError, PrivacyError) as error:
        raise _broken(path, "a line cannot be read") from error
    expected, digest = _line(entry, previous)
    if expected != line:
        raise _broken(path, f"entry {entry.number} does not follow from the one before")
    return entry, digest


def _head_path(path: Path) -> Path:
    return path.with_suffix(".head")


def _read_head(path: Path) -> tuple[int, str]:
    try:
        number, digest = _head_path(path).read_text().split()
        return int(number), digest
    except (OSError, ValueError) as error:
        raise _broken(path, "its head file is missing or unreadable") from error


def _write_head(path: Path, number: int, digest: str) -> None:
    temporary = path.with_suffix(".head.new")
    with temporary.open("w") as file:
        file.write(f"{number} {digest}\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(_head_path(path))
    _sync_folder(path)


def _sync_folder(path: Path) -> None:
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _broken(path: Path, fault: str) -> PrivacyError:
    return PrivacyError(
        f"the privacy ledger {path.name} was edited, cut or damaged: {fault}",
        "Restore it from a backup together with its head file; without it nothing may be trained on this data set.",
    )
