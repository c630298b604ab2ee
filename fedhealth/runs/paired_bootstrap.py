"""Is one run better than another? On the same test patients their difference is resampled, patient by patient.

Where the scores of single studies are at hand (data on this machine) and both runs scored the same patients, the
bootstrap is paired: both models meet the same resample. Elsewhere there are summed histograms only; the runs are then
resampled independently, which gives wider intervals and never narrower ones for models that agree on most patients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedhealth.evaluation.metrics import METRIC, Estimate, estimate
from fedhealth.evaluation.pooling import pool_predictions
from fedhealth.evaluation.predictions import Predictions, ScoreCounts, drawn_counts, resampled
from fedhealth.runs.record import Histogram
from fedhealth.runs.run_dir import PREDICTIONS
from fedhealth.runs.table import Entry

RESAMPLES = 1000


@dataclass(frozen=True)
class Difference:
    """What a reference run gains over another on test patients, and whether the two were resampled as a pair."""

    other: Entry
    gain: Estimate
    paired: bool


def differences(reference: Entry, others: Sequence[Entry], resamples: int = RESAMPLES) -> list[Difference]:
    """Return the difference to every run that has a test result; empty if the reference has none."""
    own, scored = predictions_of(reference.folder), reference.run.histograms.get("test")
    found = []
    for place, other in enumerate(others, start=1):
        theirs, counts = predictions_of(other.folder), other.run.histograms.get("test")
        if own is not None and theirs is not None and _same_patients(own, theirs):
            draws = _exact(own, resamples) - _exact(theirs, resamples)
            found.append(Difference(other, _estimate(draws), paired=True))
        elif scored is not None and counts is not None:
            draws = _summed(scored, resamples, 0) - _summed(counts, resamples, place)
            found.append(Difference(other, _estimate(draws), paired=False))
    return [each for each in found if not np.isnan(each.gain.value)]


def predictions_of(folder: Path) -> Predictions | None:
    """Return a run's scores of all test studies on this machine, site after site; None where there are none."""
    paths = sorted((folder / "sites").glob(f"*/{PREDICTIONS}"))
    if not paths:
        return None
    return pool_predictions([_load(path) for path in paths])


def _load(path: Path) -> Predictions:
    with np.load(path, allow_pickle=False) as stored:
        return Predictions(stored["scores"], stored["labels"], stored["patient"])


def _same_patients(one: Predictions, other: Predictions) -> bool:
    same = np.array_equal(one.labels, other.labels, equal_nan=True)
    return same and np.array_equal(one.patient, other.patient)


def _exact(predictions: Predictions, resamples: int) -> np.ndarray:
    """Return the value and its resamples; the same seed for all runs, which is what pairs them."""
    return resampled(predictions, resamples, seed=0)[METRIC]


def _summed(counts: Histogram, resamples: int, seed: int) -> np.ndarray:
    return drawn_counts(ScoreCounts(counts.positives, counts.negatives), resamples, seed)[METRIC]


def _estimate(draws: np.ndarray) -> Estimate:
    return estimate(draws[1:], float(draws[0]))
