"""Files of score histograms: the pooled ones beside an exported model, and a hospital's own, which stay there.

A safetensors file holds no code and no single studies; its header says which model was scored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from fedhealth.errors import ModelError
from fedhealth.evaluation.predictions import ScoreHistograms

POOLED_SCORES_FILE = "pooled_scores.safetensors"  # in the folder of an exported model
OWN_SCORES_FILE = "own_scores.safetensors"  # in a site's folder for a run: exact scores of the model that it would use
CALIBRATION_FILE = "calibration.safetensors"  # in the same folder: own and pooled scores, for `fedhealth predict`
_SIDES = ("positives", "negatives")
_NOISE = "noise_std"
_ADVICE = "Give the file as fedhealth wrote it, or write it again."


@dataclass(frozen=True)
class ScoreFile:
    """Score histograms by name, such as `validation`, and what they are of.

    Attributes:
        counts: histograms.
        about: texts by name, such as the digest of the model.

    """

    counts: Mapping[str, ScoreHistograms]
    about: Mapping[str, str]


def pack_score_file(content: ScoreFile) -> bytes:
    """Return the content of the file."""
    arrays = {f"{name}.{side}": getattr(each, side) for name, each in content.counts.items() for side in _SIDES}
    arrays |= {f"{name}.{_NOISE}": np.array([each.noise_std]) for name, each in content.counts.items()}
    packed: bytes = save({name: np.ascontiguousarray(each) for name, each in arrays.items()}, dict(content.about))
    return packed


def load_score_file(path: Path) -> ScoreFile:
    """Read the file.

    Raises:
        ModelError: it does not exist, is damaged, or holds anything else than score histograms.

    """
    try:
        with safe_open(path, framework="numpy") as file:
            about = dict(file.metadata() or {})
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        names = sorted({name.rpartition(".")[0] for name in arrays})
        return ScoreFile({name: _read_counts(arrays, name) for name in names}, about)
    except (OSError, SafetensorError, KeyError, ValueError, TypeError) as fault:
        raise ModelError(f"{path} holds no score histograms ({fault}).", _ADVICE) from fault


def _read_counts(arrays: Mapping[str, np.ndarray], name: str) -> ScoreHistograms:
    positives, negatives = (arrays[f"{name}.{side}"] for side in _SIDES)
    noise_std = float(arrays[f"{name}.{_NOISE}"][0])
    if positives.ndim != 2 or positives.shape != negatives.shape or not 0 <= noise_std < np.inf:
        raise ValueError(f"{name} has the shapes {positives.shape} and {negatives.shape}")
    for side in (positives, negatives):
        if not np.isfinite(side).all() or (not noise_std and (side < 0).any()):
            raise ValueError(f"{name} has impossible counts")
    return ScoreHistograms(positives, negatives, noise_std)
