"""The calibration of a model at one hospital: put together there, from its own scores and the pooled ones."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedhealth.errors import ModelError
from fedhealth.evaluation.calibration import OWN_BINS, ClassCalibration, calibrate_classes
from fedhealth.evaluation.predictions import ScoreHistograms
from fedhealth.protocol.messages import digest_arrays
from fedhealth.runs.score_file import ScoreFile, load_score_file, pack_score_file
from fedhealth.types import State
from fedhealth.utils.atomic_io import write_atomic
from fedhealth.utils.private_files import write_private_file

MODEL, PERSONAL, HOSPITAL = "model", "personal", "hospital"
_OWN, _POOLED = "validation", "pooled"


@dataclass(frozen=True)
class HospitalCalibration:
    """The calibration of one model at one hospital.

    Attributes:
        hospital: its name.
        model: digest of the shared arrays of the model.
        is_personal: whether it is of the hospital's own variant of the model (`personal.safetensors`).
        classes: by class, in the model's order.

    """

    hospital: str
    model: str
    is_personal: bool
    classes: tuple[ClassCalibration, ...]

    def calibrate_scores(self, scores: np.ndarray, is_exclusive: bool) -> np.ndarray:
        """Return calibrated probabilities [S, K] for the model's.

        Args:
            scores: of S studies.
            is_exclusive: whether a study has exactly one class; its probabilities then sum to 1.

        """
        calibrated = np.stack([each.calibrate_scores(scores[:, k]) for k, each in enumerate(self.classes)], axis=1)
        return calibrated / calibrated.sum(axis=1, keepdims=True) if is_exclusive else calibrated

    def decide_studies(self, scores: np.ndarray, risk: float) -> np.ndarray:
        """Return 1, 0 or -1 (abstains) by study and class [S, K], for the model's probabilities; see `find_band`."""
        return np.stack([each.decide_studies(scores[:, k], risk) for k, each in enumerate(self.classes)], axis=1)


def compute_model_digest(shared: State) -> str:
    """Return the digest of the arrays that a federation trained."""
    return digest_arrays(shared).hex()


def write_pooled_scores(path: Path, shared: State, pooled: ScoreHistograms | None) -> None:
    """Write the pooled validation scores beside an exported model.

    Args:
        path: of the file.
        shared: the arrays that the federation trained.
        pooled: None if the run has no validation scores.

    """
    counts = {} if pooled is None else {_POOLED: pooled}
    write_atomic(path, pack_score_file(ScoreFile(counts, {MODEL: compute_model_digest(shared)})))


def find_own_scores(pooled: ScoreFile, paths: Iterable[Path]) -> ScoreFile | None:
    """Return the first of a hospital's files with scores of the model that the pooled scores belong to."""
    return next(
        (each for each in map(load_score_file, paths) if each.about.get(MODEL) == pooled.about.get(MODEL)), None
    )


def write_calibration(own_scores: ScoreFile, pooled: ScoreFile, hospital: str, path: Path) -> None:
    """Put a hospital's calibration together; other users cannot read it.

    Args:
        own_scores: of the hospital, of the same model as the pooled ones.
        pooled: from the folder of the exported model.
        hospital: its name.
        path: of the file to write.

    """
    counts = {_OWN: own_scores.counts[_OWN]}
    counts |= {_POOLED: pooled.counts[_POOLED]} if _POOLED in pooled.counts else {}
    write_private_file(path, pack_score_file(ScoreFile(counts, {**own_scores.about, HOSPITAL: hospital})))


def load_calibration(path: Path) -> HospitalCalibration:
    """Read a hospital's calibration.

    Raises:
        ModelError: the file does not exist, is damaged, or holds no calibration.

    """
    file = load_score_file(path)
    own, pooled = file.counts.get(_OWN), file.counts.get(_POOLED)
    if own is None or own.positives.shape[1] != OWN_BINS or HOSPITAL not in file.about:
        raise ModelError(f"{path} holds no calibration.", "Write it with `fedhealth site calibrate`.")
    if pooled is not None and len(pooled.positives) != len(own.positives):
        raise ModelError(f"{path} mixes two models.", "Write it again with `fedhealth site calibrate`.")
    classes = calibrate_classes(own, pooled)
    return HospitalCalibration(
        file.about[HOSPITAL], file.about.get(MODEL, ""), file.about.get(PERSONAL) == "yes", classes
    )
