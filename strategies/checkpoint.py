"""Where a run can go on after anything was killed: one file a completed round, whole or not there.

A checkpoint is a safetensors file whose header names the round, the exchange and the SHA-256 of its arrays. A damaged
one is set aside, aloud, and the one before it taken. The newest few are kept, and the best by validation score.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from fedhealth.protocol.messages import digest_of
from fedhealth.types import State
from fedhealth.utils.atomic_io import write_atomic

FOLDER = "checkpoints"
_ARRAYS, _OPTIMIZER = "arrays.", "optimizer."

log = logging.getLogger("fedhealth.lead")


@dataclass(frozen=True)
class Snapshot:
    """The lead's state after a completed round.

    Attributes:
        digest: of the configuration.
        round: the last completed one; 0 before training.
        exchange: the last one begun.
        arrays: the model's shared arrays and the method's own.
        optimizer: the server optimizer's memory.
        scores: validation score of the model after each round, as far as known.

    """

    digest: str
    round: int
    exchange: int
    arrays: State
    optimizer: State = field(default_factory=dict)
    scores: dict[int, float] = field(default_factory=dict)


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: the run's directory.
        keep: how many of the newest to keep beside the best.

    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder, self.keep = folder / FOLDER, keep

    def save(self, snapshot: Snapshot) -> None:
        """Write a checkpoint durably, then remove those no longer wanted.

        Raises:
            OSError: no room, no permission; earlier checkpoints are untouched.

        """
        self.folder.mkdir(parents=True, exist_ok=True)
        arrays = {_ARRAYS + name: array for name, array in snapshot.arrays.items()}
        arrays |= {_OPTIMIZER + name: array for name, array in snapshot.optimizer.items()}
        about = asdict(replace(snapshot, arrays={}, optimizer={}))
        header = {"about": json.dumps(about), "sha256": digest_of(arrays).hex()}
        write_atomic(self._path(snapshot.round), save(arrays, header))
        self._prune(snapshot)

    def latest(self) -> Snapshot | None:
        """Return the newest whole checkpoint; None where there is none. Damaged ones are set aside."""
        for path in sorted(self.folder.glob("round-*.safetensors"), reverse=True):
            try:
                return _load(path)
            except (OSError, SafetensorError, ValueError, KeyError, TypeError) as fault:
                log.warning("%s is damaged (%s): set aside, the one before is used", path, fault)
                path.rename(path.with_suffix(".damaged"))
        return None

    def _path(self, number: int) -> Path:
        return self.folder / f"round-{number:05d}.safetensors"

    def _prune(self, snapshot: Snapshot) -> None:
        wanted = set(range(snapshot.round - self.keep + 1, snapshot.round + 1))
        if snapshot.scores:
            wanted.add(max(snapshot.scores, key=lambda number: snapshot.scores[number]))
        kept = {self._path(number) for number in wanted}
        for path in self.folder.glob("round-*.safetensors"):
            if path not in kept:
                path.unlink(missing_ok=True)


def _load(path: Path) -> Snapshot:
    with safe_open(path, framework="numpy") as file:
        header: dict[str, Any] = file.metadata() or {}
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    if digest_of(arrays).hex() != header["sha256"]:
        raise ValueError("its arrays are not those that were written")
    about = json.loads(header["about"])
    scores = {int(number): float(score) for number, score in about["scores"].items()}
    return Snapshot(
        str(about["digest"]),
        int(about["round"]),
        int(about["exchange"]),
        dict(_under(_ARRAYS, arrays)),
        dict(_under(_OPTIMIZER, arrays)),
        scores,
    )


def _under(prefix: str, arrays: State) -> Iterator[tuple[str, Any]]:
    return ((name.removeprefix(prefix), array) for name, array in arrays.items() if name.startswith(prefix))
