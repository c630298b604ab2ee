"""Server checkpoints: one file for each completed round, written atomically, from which a killed run resumes.

A checkpoint is a safetensors file whose header contains the round, the exchange and the SHA-256 of its arrays. A
damaged file is renamed with a warning and the previous one is used. The newest few and the best by validation score
are retained.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from fedhealth.protocol.messages import digest_arrays
from fedhealth.types import State
from fedhealth.utils.array_file import read_array_file, write_array_file
from strategies.selection import find_best_round

FOLDER = "checkpoints"
_ARRAYS, _OPTIMIZER, _AVERAGE = "arrays.", "optimizer.", "average."

log = logging.getLogger("fedhealth.lead")


@dataclass(frozen=True)
class RoundCheckpoint:
    """The lead's state after a completed round.

    Attributes:
        digest: of the configuration.
        round: the last completed round; 0 before training.
        exchange: the last exchange begun.
        arrays: the model's shared arrays and the method's extra arrays.
        optimizer: the server optimizer's state.
        scores: validation score of the model after each round, if known.
        history: of secure aggregation; empty without.
        average: state of the moving average of the models; empty without.

    """

    digest: str
    round: int
    exchange: int
    arrays: State
    optimizer: State = field(default_factory=dict)
    scores: dict[int, float] = field(default_factory=dict)
    history: str = ""
    average: State = field(default_factory=dict)


class CheckpointStore:
    """The checkpoints of one run.

    Args:
        folder: the run's directory.
        keep: number of newest checkpoints to retain, in addition to the best.

    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder, self.keep = folder / FOLDER, keep

    def save(self, checkpoint: RoundCheckpoint) -> None:
        """Write a checkpoint durably, then delete those that are no longer needed.

        Raises:
            OSError: disk full or no permission; earlier checkpoints are not changed.

        """
        self.folder.mkdir(parents=True, exist_ok=True)
        arrays = {_ARRAYS + name: array for name, array in checkpoint.arrays.items()}
        arrays |= {_OPTIMIZER + name: array for name, array in checkpoint.optimizer.items()}
        arrays |= {_AVERAGE + name: array for name, array in checkpoint.average.items()}
        about = asdict(replace(checkpoint, arrays={}, optimizer={}, average={}))
        header = {"about": json.dumps(about), "sha256": digest_arrays(arrays).hex()}
        write_array_file(self._path(checkpoint.round), arrays, header)
        self._prune(checkpoint)

    def load_latest(self) -> RoundCheckpoint | None:
        """Return the newest valid checkpoint, or None; rename damaged ones."""
        for path in sorted(self.folder.glob("round-*.safetensors"), reverse=True):
            try:
                return _load_checkpoint(path)
            except (OSError, ValueError, KeyError, TypeError) as fault:
                log.warning("%s is damaged (%s): using the previous checkpoint", path, fault)
                path.rename(path.with_suffix(".damaged"))
        return None

    def load_round(self, number: int) -> RoundCheckpoint | None:
        """Return the checkpoint of a round; None if it is not retained or damaged."""
        try:
            return _load_checkpoint(self._path(number))
        except (OSError, ValueError, KeyError, TypeError) as fault:
            log.warning("the checkpoint of round %d cannot be read (%s)", number, fault)
            return None

    def _path(self, number: int) -> Path:
        return self.folder / f"round-{number:05d}.safetensors"

    def _prune(self, checkpoint: RoundCheckpoint) -> None:
        retained = set(range(checkpoint.round - self.keep + 1, checkpoint.round + 1))
        if (best := find_best_round(checkpoint.scores)) is not None:
            retained.add(best)
        paths = {self._path(number) for number in retained}
        for path in self.folder.glob("round-*.safetensors"):
            if path not in paths:
                path.unlink(missing_ok=True)


def _load_checkpoint(path: Path) -> RoundCheckpoint:
    arrays, header = read_array_file(path)
    if digest_arrays(arrays).hex() != header["sha256"]:
        raise ValueError("the SHA-256 of its arrays does not match")
    about = json.loads(header["about"])
    scores = {int(number): float(score) for number, score in about["scores"].items()}
    return RoundCheckpoint(
        str(about["digest"]),
        int(about["round"]),
        int(about["exchange"]),
        dict(_select_by_prefix(_ARRAYS, arrays)),
        dict(_select_by_prefix(_OPTIMIZER, arrays)),
        scores,
        str(about.get("history", "")),
        dict(_select_by_prefix(_AVERAGE, arrays)),
    )


def _select_by_prefix(prefix: str, arrays: State) -> Iterator[tuple[str, Any]]:
    return ((name.removeprefix(prefix), array) for name, array in arrays.items() if name.startswith(prefix))
