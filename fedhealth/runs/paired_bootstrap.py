"""Bootstrap confidence intervals for the difference between two runs' AUROC on the test patients.

If the scores of single studies are available (data on this machine) and both runs scored the same patients, the
bootstrap is paired: both models are evaluated on the same resamples of patients. Otherwise only summed histograms are
available; the runs are then resampled independently, which gives wider intervals, never narrower ones, for models that
agree on most patients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedhealth.evaluation.metrics import PRIMARY_METRIC, Estimate, estimate_interval
from fedhealth.evaluation.pooling import pool_predictions
from fedhealth.evaluation.predictions import (
    Predictions,
    ScoreHistograms,
    bootstrap_histogram_auroc,
    bootstrap_metrics,
)
from fedhealth.runs.damage import explain_damage
from fedhealth.runs.results import ScoreBinCounts
from fedhealth.runs.run_dir import PREDICTIONS_FILE
from fedhealth.runs.table import RunEntry

RESAMPLES = 1000


@dataclass(frozen=True)
class RunDifference:
    """The gain of a reference run over another run on the test patients, and whether the bootstrap was paired."""

    other: RunEntry
    gain: Estimate
    paired: bool


def compute_differences(
    reference: RunEntry, others: Sequence[RunEntry], resamples: int = RESAMPLES
) -> list[RunDifference]:
    """Return the difference to every run that has a test result; empty if the reference has none."""
    predictions, histogram = load_test_predictions(reference.folder), reference.run.histograms.get("test")
    differences = []
    for index, other in enumerate(others, start=1):
        other_predictions, other_histogram = load_test_predictions(other.folder), other.run.histograms.get("test")
        if (
            predictions is not None
            and other_predictions is not None
            and _have_same_patients(predictions, other_predictions)
        ):
            draws = _resample_predictions(predictions, resamples) - _resample_predictions(other_predictions, resamples)
            differences.append(RunDifference(other, _estimate_gain(draws), paired=True))
        elif histogram is not None and other_histogram is not None:
            draws = _resample_histogram(histogram, resamples, 0) - _resample_histogram(
                other_histogram, resamples, index
            )
            differences.append(RunDifference(other, _estimate_gain(draws), paired=False))
    return [each for each in differences if not np.isnan(each.gain.value)]


def load_test_predictions(folder: Path) -> Predictions | None:
    """Return a run's scores of all test studies on this machine, in the order of sites; None if there are none."""
    paths = sorted((folder / "sites").glob(f"*/{PREDICTIONS_FILE}"))
    if not paths:
        return None
    return pool_predictions([_load_site_predictions(path) for path in paths])


def _load_site_predictions(path: Path) -> Predictions:
    with explain_damage(path), path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
        return Predictions(stored["scores"], stored["labels"], stored["patient"])


def _have_same_patients(one: Predictions, other: Predictions) -> bool:
    same = np.array_equal(one.labels, other.labels, equal_nan=True)
    return same and np.array_equal(one.patient, other.patient)


def _resample_predictions(predictions: Predictions, resamples: int) -> np.ndarray:
    """Return the AUROC and its bootstrap resamples; all runs use the same seed, which makes the bootstrap paired."""
    return bootstrap_metrics(predictions, resamples, seed=0)[PRIMARY_METRIC]


def _resample_histogram(counts: ScoreBinCounts, resamples: int, seed: int) -> np.ndarray:
    histograms = ScoreHistograms(counts.positives, counts.negatives, counts.noise_std)
    return bootstrap_histogram_auroc(histograms, resamples, seed)


def _estimate_gain(draws: np.ndarray) -> Estimate:
    return estimate_interval(draws[1:], float(draws[0]))
