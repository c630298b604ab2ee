"""Scores of scores: AUROC, AUPRC, balanced accuracy and calibration error, exact, weighted and from histograms.

Every metric here is a function of one table: the distinct scores in ascending order, with the weight of positives and
of negatives at each. Plain counts give the point value, Poisson weights give bootstrap resamples (all at once, along a
leading axis), summed histograms give the federated value. AUPRC is average precision (no interpolation); the
calibration error is the expected calibration error of Guo et al. (ICML 2017) with 15 equal-width bins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

CALIBRATION_BINS = 15
_CHUNK = 50  # resamples computed at once: bounds memory
LOGIT_LIMIT = 12.0  # histogram range: probabilities beyond 6e-6 from 0 or 1 share the outer bins


@dataclass(frozen=True)
class ScoreTable:
    """Scores float64 [U], ascending probabilities; weights of positives and negatives, each [..., U]."""

    scores: np.ndarray
    positives: np.ndarray
    negatives: np.ndarray


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % bootstrap interval; NaN where it is not defined (one class only)."""

    value: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float | None]:
        """Return it for JSON, NaN as null."""
        pairs = (("value", self.value), ("low", self.low), ("high", self.high))
        return {name: None if np.isnan(number) else round(float(number), 6) for name, number in pairs}


def auroc(table: ScoreTable) -> np.ndarray:
    """Return the probability that a positive scores above a negative, ties counting half."""
    below = np.cumsum(table.negatives, axis=-1) - table.negatives / 2
    pairs = table.positives.sum(-1) * table.negatives.sum(-1)
    return _divide((table.positives * below).sum(-1), pairs)


def auprc(table: ScoreTable) -> np.ndarray:
    """Return average precision: precision at each threshold, weighted by the recall gained there."""
    hits = np.cumsum(table.positives[..., ::-1], axis=-1)
    called = hits + np.cumsum(table.negatives[..., ::-1], axis=-1)
    precision = np.divide(hits, called, out=np.zeros_like(hits, dtype=float), where=called > 0)
    return _divide((table.positives[..., ::-1] * precision).sum(-1), table.positives.sum(-1))


def balanced_accuracy(table: ScoreTable, threshold: float = 0.5) -> np.ndarray:
    """Return the mean of sensitivity and specificity at `threshold`."""
    called = table.scores >= threshold
    sensitivity = _divide(table.positives[..., called].sum(-1), table.positives.sum(-1))
    specificity = _divide(table.negatives[..., ~called].sum(-1), table.negatives.sum(-1))
    return (sensitivity + specificity) / 2


def calibration_error(table: ScoreTable) -> np.ndarray:
    """Return the mean distance between stated probability and observed frequency, over equal-width bins."""
    bins = np.minimum((table.scores * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    weight = table.positives + table.negatives
    gaps = np.zeros(weight.shape[:-1])
    for index in np.unique(bins):
        inside = bins == index
        stated = (weight[..., inside] * table.scores[inside]).sum(-1)
        gaps = gaps + np.abs(stated - table.positives[..., inside].sum(-1))
    return _divide(gaps, weight.sum(-1))


METRICS: dict[str, Callable[[ScoreTable], np.ndarray]] = {
    "auroc": auroc,
    "auprc": auprc,
    "balanced_accuracy": balanced_accuracy,
    "calibration_error": calibration_error,
}


def tabulate(scores: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> ScoreTable:
    """Return the table of `scores` [N] with labels bool [N] and weights [..., N]."""
    order = np.argsort(scores, kind="stable")
    distinct, starts = np.unique(scores[order], return_index=True)
    ordered, labels = weights[..., order], positive[order]
    sums = [np.add.reduceat(ordered * chosen, starts, axis=-1) for chosen in (labels, ~labels)]
    return ScoreTable(distinct, *sums)


def bin_scores(scores: np.ndarray, bins: int) -> np.ndarray:
    """Return each probability's bin 0..bins-1, equal steps of its logit: fine where rare classes crowd."""
    clipped = np.clip(scores.astype(np.float64), 1e-12, 1 - 1e-12)
    place = (np.log(clipped / (1 - clipped)) + LOGIT_LIMIT) / (2 * LOGIT_LIMIT)
    return np.clip((place * bins).astype(int), 0, bins - 1)


def bin_centres(bins: int) -> np.ndarray:
    """Return the probability at the middle of each bin, ascending."""
    logits = (np.arange(bins) + 0.5) / bins * 2 * LOGIT_LIMIT - LOGIT_LIMIT
    centres: np.ndarray = 1 / (1 + np.exp(-logits))
    return centres


def poisson_weights(clusters: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Return bootstrap weights [resamples, N]: one Poisson(1) draw per cluster (patient), shared by its rows.

    Passing the same seed for two models pairs them: their difference is resampled, not their noise.
    """
    distinct, inverse = np.unique(clusters, return_inverse=True)
    draws = np.random.default_rng(seed).poisson(1.0, (resamples, len(distinct)))
    return draws[:, inverse].astype(np.float64)


def macro(metric: Callable[[ScoreTable], np.ndarray], tables: Iterable[ScoreTable]) -> np.ndarray:
    """Return the mean of `metric` over classes, leaving out those for which it is not defined."""
    values = np.stack([metric(table) for table in tables])
    defined = ~np.isnan(values)
    return _divide(np.where(defined, values, 0.0).sum(0), defined.sum(0))


def estimate(values: np.ndarray, point: float) -> Estimate:
    """Return `point` with the 2.5 and 97.5 percentiles of its resamples."""
    defined = values[~np.isnan(values)]
    if np.isnan(point) or len(defined) < 2:
        return Estimate(point, float("nan"), float("nan"))
    low, high = np.percentile(defined, [2.5, 97.5])
    return Estimate(point, float(low), float(high))


def in_chunks(compute: Callable[[np.ndarray], np.ndarray], weights: np.ndarray) -> np.ndarray:
    """Apply `compute` to a few resamples at a time and join the results."""
    return np.concatenate([compute(weights[start : start + _CHUNK]) for start in range(0, len(weights), _CHUNK)])


def _divide(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    above, below = np.asarray(above, float), np.asarray(below, float)
    return np.divide(above, below, out=np.full(np.broadcast(above, below).shape, np.nan), where=below > 0)


METRIC = "auroc"
