"""The files that a site stores for a run between messages; a crash leaves the old or the new version, never a part."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open
from safetensors.numpy import save

from fedhealth.runs.run_dir import PERSONAL_FILE, PRIVATE_FILE
from fedhealth.types import State
from fedhealth.utils.atomic_io import write_atomic

_BEFORE = "private.before.safetensors"  # PRIVATE one round earlier: a round may have to be trained again
_LATE = "late.safetensors"  # the last update, for the next round if it misses the deadline of its own


@dataclass(frozen=True)
class SiteStore:
    """One run's files in a site's private folder.

    In a private run, what a round left behind counts only if the words of that round are recorded as released. An
    interrupted round is trained again under the same booking, so nothing of its first training may be used.

    Attributes:
        run: the run's id; files of other runs are ignored.
        folder: the site's folder for the run.
        is_released: whether the words with a digest are recorded as released; always true without privacy.

    """

    run: str
    folder: Path
    is_released: Callable[[str], bool] = lambda digest: True

    def load_before(self, number: int) -> State:
        """Return the private arrays from before round `number`, also if the round was started several times."""
        for name in (PRIVATE_FILE, _BEFORE):
            at, arrays = self._load(name)
            if 0 <= at < number:
                return arrays
        return {}

    def save_private(self, number: int, arrays: State, digest: str = "") -> None:
        """Store the private arrays after round `number`, whose words have a digest, and keep those from before it."""
        at, _ = self._load(PRIVATE_FILE)
        if 0 <= at < number:
            (self.folder / PRIVATE_FILE).replace(self.folder / _BEFORE)
        if arrays or at >= 0:
            self._save(PRIVATE_FILE, number, arrays, digest)

    def save_personal(self, arrays: State) -> None:
        """Store the arrays in which the site's personal model differs from the final shared one."""
        if arrays:
            self._save(PERSONAL_FILE, 0, arrays)
        else:
            (self.folder / PERSONAL_FILE).unlink(missing_ok=True)

    def save_late_update(self, number: int, update: State, digest: str = "") -> None:
        """Store the update of round `number`, whose words have a digest, in case it misses the deadline."""
        self._save(_LATE, number, update, digest)

    def load_late_update(self, number: int) -> State:
        """Return the stored update of round `number`; empty if there is none."""
        at, update = self._load(_LATE)
        return update if at == number else {}

    def _load(self, name: str) -> tuple[int, State]:
        """Return a file's round and arrays; round -1 and no arrays if this run has no such file that counts."""
        path = self.folder / name
        if not path.is_file():
            return -1, {}
        with safe_open(path, framework="numpy") as file:
            about = file.metadata() or {}
            if about.get("run") != self.run or not self.is_released(about.get("digest", "")):
                return -1, {}
            return int(about["round"]), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118

    def _save(self, name: str, number: int, arrays: State, digest: str = "") -> None:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        about = {"run": self.run, "round": str(number), "digest": digest}
        write_atomic(self.folder / name, save(arrays, about))
