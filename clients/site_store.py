"""What a site remembers of a run between its tasks; a crash at any moment leaves the old or the new, never a part."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open
from safetensors.numpy import save

from fedhealth.runs.run_dir import PERSONAL, PRIVATE
from fedhealth.types import State
from fedhealth.utils.atomic_io import write_atomic

_BEFORE = "private.before.safetensors"  # PRIVATE as it was a round earlier: a round may have to be trained again
_LATE = "late.safetensors"  # the last update, for the next round if it comes too late for its own
_RELEASED = "released"


@dataclass(frozen=True)
class Memory:
    """One run's files in a site's private folder.

    Attributes:
        run: the run's id; what another run left is not seen.
        folder: the site's.

    """

    run: str
    folder: Path

    def before(self, number: int) -> State:
        """Return the private arrays as they were before round `number`, however often it was begun."""
        for name in (PRIVATE, _BEFORE):
            at, arrays = self._read(name)
            if at < number:
                return arrays
        return {}

    def keep(self, number: int, arrays: State) -> None:
        """Keep the private arrays after training round `number`, and those before it."""
        at, earlier = self._read(PRIVATE)
        if 0 <= at < number:
            self._write(_BEFORE, at, earlier)
        if arrays or at >= 0:
            self._write(PRIVATE, number, arrays)

    def keep_own(self, arrays: State) -> None:
        """Keep the arrays in which the site's own final model differs from the shared one."""
        if arrays:
            self._write(PERSONAL, 0, arrays)
        else:
            (self.folder / PERSONAL).unlink(missing_ok=True)

    def keep_late(self, number: int, update: State) -> None:
        """Keep the update of round `number` in case it comes too late."""
        self._write(_LATE, number, update)

    def late(self, number: int) -> State:
        """Return the update kept for round `number`, if any."""
        at, update = self._read(_LATE)
        return update if at == number else {}

    def released(self, number: int) -> bool:
        """Return whether something of round `number` may have left the site."""
        path = self.folder / _RELEASED
        return path.is_file() and path.read_text("utf-8").split() == [self.run, str(number)]

    def release(self, number: int) -> None:
        """Say, durably, that something of round `number` may leave from now on."""
        if not self.released(number):
            self._make_folder()
            write_atomic(self.folder / _RELEASED, f"{self.run} {number}".encode())

    def _read(self, name: str) -> tuple[int, State]:
        """Return a file's round and arrays; round -1 and nothing where there is none of this run."""
        path = self.folder / name
        if not path.is_file():
            return -1, {}
        with safe_open(path, framework="numpy") as file:
            about = file.metadata() or {}
            if about.get("run") != self.run:
                return -1, {}
            return int(about["round"]), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118

    def _write(self, name: str, number: int, arrays: State) -> None:
        self._make_folder()
        write_atomic(self.folder / name, save(arrays, {"run": self.run, "round": str(number)}))

    def _make_folder(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
