"""What one calibration for all hospitals brings, from summed score histograms alone: nothing more leaves a hospital.

Each class's logistic calibration is fitted on the sum of the validation histograms and scored on that of the test
histograms, which may both hold noise. The intervals are for the calibration that was found: they hold the sampling of
test studies and the noise of their counts. A hospital that calibrates with its own studies does better where hospitals
differ (`fedhealth.evaluation.calibration`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from fedhealth.evaluation.calibration import estimate_share, fit_logistic, spread_pooled_scores, to_probability
from fedhealth.evaluation.metrics import LOGIT_LIMIT, Estimate
from fedhealth.evaluation.noised_scores import NOISED_LOGIT_LIMIT, NOT_REPORTED
from fedhealth.evaluation.predictions import ScoreHistograms, compute_histogram_metrics

CALIBRATED_METRICS = ("balanced_accuracy", "calibration_error")
"""The metrics that a calibration changes; it keeps the order of the scores."""
_POINTS = 64  # in which the mean probability of a bin is computed


@dataclass(frozen=True)
class PooledCalibration:
    """The calibration of one class for all hospitals; see `ClassCalibration`."""

    temperature: float
    offset: float
    threshold: float


def fit_pooled_calibrations(validation: ScoreHistograms) -> tuple[PooledCalibration | None, ...]:
    """Return the calibration of each class; None where the noise hides it, or all studies are of one kind.

    The threshold is an edge between two bins, so that it divides the counts exactly: the one whose calibrated
    probability is nearest to the share of studies with the class.
    """
    return tuple(_fit_classes(validation))


def _fit_classes(validation: ScoreHistograms) -> Iterator[PooledCalibration | None]:
    edges = _get_edges(validation)
    for cells, shares in zip(validation.columns, spread_pooled_scores(validation), strict=True):
        if shares is None:
            yield None
            continue
        studies = shares * (cells.positives.sum() + cells.negatives.sum())
        temperature, offset = fit_logistic(studies)
        calibrated = to_probability(edges[1:-1] / temperature + offset)
        nearest = np.abs(calibrated - estimate_share(*studies.sum(axis=1))).argmin()
        yield PooledCalibration(temperature, offset, float(calibrated[nearest]))


def estimate_calibrated_metrics(
    fitted: tuple[PooledCalibration | None, ...], test: ScoreHistograms, resamples: int, seed: int = 0
) -> dict[str, Estimate]:
    """Return the `CALIBRATED_METRICS`, the mean over the calibrated classes; NaN if there is none.

    Args:
        fitted: by class.
        test: histograms in the same bins as those that calibrated.
        resamples: of the bootstrap.
        seed: of the resampling.

    """
    known = [column for column, each in enumerate(fitted) if each is not None]
    if not known:
        return dict.fromkeys(CALIBRATED_METRICS, NOT_REPORTED)
    calibrations = [each for each in fitted if each is not None]
    stated = np.stack([_compute_bin_means(test, each) for each in calibrations])
    thresholds = np.array([each.threshold for each in calibrations])
    chosen = replace(test, positives=test.positives[known], negatives=test.negatives[known])
    decided = replace(chosen, scores=(stated >= thresholds[:, None]).astype(float))
    return {
        name: compute_histogram_metrics(counts, resamples, seed)[name]
        for name, counts in zip(CALIBRATED_METRICS, (decided, replace(chosen, scores=stated)), strict=True)
    }


def _compute_bin_means(counts: ScoreHistograms, calibration: PooledCalibration) -> np.ndarray:
    """Return the mean calibrated probability [bins] of scores that are spread evenly over each bin's logits."""
    edges = _get_edges(counts)
    inside = (np.arange(_POINTS) + 0.5) / _POINTS
    logits = edges[:-1, None] + np.diff(edges)[:, None] * inside
    means: np.ndarray = to_probability(logits / calibration.temperature + calibration.offset).mean(axis=1)
    return means


def _get_edges(counts: ScoreHistograms) -> np.ndarray:
    limit = NOISED_LOGIT_LIMIT if counts.noise_std else LOGIT_LIMIT
    return np.linspace(-limit, limit, counts.positives.shape[1] + 1)
