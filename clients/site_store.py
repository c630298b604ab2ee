"""The files that a site stores for a run between messages; a crash leaves the old or the new version, never a part."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open

from fedhealth.errors import RequestMismatchError
from fedhealth.runs.run_dir import PERSONAL_FILE, PRIVATE_FILE
from fedhealth.types import State
from fedhealth.utils.array_file import write_array_file

_BEFORE = "private.before.safetensors"  # PRIVATE one round earlier: a round may have to be trained again
_ROUNDS, _KEPT_ROUNDS = "private.{}.safetensors", 4  # under secure aggregation, by repetition
_DELETED = "deleted.{}.safetensors"  # the header alone: this round did leave arrays
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

    def load_round(self, rounds: Sequence[tuple[int, str]]) -> tuple[int, State]:
        """Return the private arrays that a history ends with, and how many of its newest rounds left none here.

        Args:
            rounds: (repetition, source) of the history's rounds, newest first; see `clients.transport.history`.

        Raises:
            RequestMismatchError: the arrays of the newest round that left any were deleted; older ones do not count.

        """
        patterns = PRIVATE_FILE, _ROUNDS.format("*"), _DELETED.format("*")
        if not any(any(self.folder.glob(pattern)) for pattern in patterns):
            return 0, {}  # of a method that keeps nothing; there may be hundreds of rounds
        for missed, (repetition, source) in enumerate(rounds):
            deleted = self._get_round_path(repetition, _DELETED)
            for path in (self.folder / PRIVATE_FILE, self._get_round_path(repetition), deleted):
                about, arrays = self._read(path)
                if (about.get("repetition"), about.get("source")) == (str(repetition), source):
                    if path == deleted:
                        problem = "The local arrays of that history were deleted, after many rounds of other ones."
                        raise RequestMismatchError(problem, "Nothing was booked or sent. Start a new run.")
                    self._make_current(path)
                    return missed, arrays
        return 0, {}

    def save_round(
        self, repetition: int, source: str, arrays: State, digest: str, opened: Collection[int] = ()
    ) -> None:
        """Store what a round leaves behind; it counts in a history that holds the round.

        Args:
            repetition: of the round's vector.
            source: digest of what the vector was computed from.
            arrays: private arrays.
            digest: of the round's words.
            opened: repetitions of all rounds that are known to be opened; others displace none of them.

        """
        if not arrays:
            return
        about = {"repetition": str(repetition), "source": source, "digest": digest}
        self._write(self._get_round_path(repetition), arrays, about)
        names = {self._get_round_path(each) for each in opened}
        paths = sorted(self.folder.glob(_ROUNDS.format("*")))
        for group in ([each for each in paths if each in names], [each for each in paths if each not in names]):
            for path in group[:-_KEPT_ROUNDS]:
                self._delete_round(path)

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
        about, arrays = self._read(self.folder / name)
        return int(about.get("round", -1)), arrays

    def _save(self, name: str, number: int, arrays: State, digest: str = "") -> None:
        self._write(self.folder / name, arrays, {"round": str(number), "digest": digest})

    def _get_round_path(self, repetition: int, pattern: str = _ROUNDS) -> Path:
        return self.folder / pattern.format(f"{repetition:08d}")

    def _delete_round(self, path: Path) -> None:
        """Delete a round's arrays; its header stays, so that no older arrays take their place."""
        about, _ = self._read(path)
        if "repetition" in about:
            self._write(self._get_round_path(int(about["repetition"]), _DELETED), {}, about)
        path.unlink()

    def _make_current(self, path: Path) -> None:
        """Rename a round's file to that of the current private arrays, and that one back to its own name."""
        current = self.folder / PRIVATE_FILE
        if path == current:
            return
        about, _ = self._read(current)
        if "repetition" in about:
            current.replace(self._get_round_path(int(about["repetition"])))
        path.replace(current)

    def _read(self, path: Path) -> tuple[Mapping[str, str], State]:
        """Return a file's header and arrays; empty ones if this run has no such file that counts."""
        if not path.is_file():
            return {}, {}
        with safe_open(path, framework="numpy") as file:
            about = file.metadata() or {}
            if about.get("run") != self.run or not self.is_released(about.get("digest", "")):
                return {}, {}
            return about, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118

    def _write(self, path: Path, arrays: State, about: Mapping[str, str]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_array_file(path, arrays, {"run": self.run, **about})
