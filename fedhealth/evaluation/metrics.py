"""Metrics: AUROC, AUPRC, balanced accuracy and calibration error, exact, weighted and from histograms.

Every metric is a function of one table: the distinct scores in ascending order, with the weights of positives and
negatives at each. Counts give the point estimate, Poisson weights give bootstrap resamples (all at once, along a
leading axis), summed histograms give the federated metric. AUPRC is average precision (no interpolation); the
calibration error is the expected calibration error of Guo et al. (ICML 2017) with 15 equal-width bins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from fedhealth.utils.auroc import compute_auroc_from_counts, divide_or_nan

PRIMARY_METRIC = "auroc"  # runs are compared by it
CALIBRATION_BINS = 15
_CHUNK = 50  # resamples computed at once, to limit memory
LOGIT_LIMIT = 12.0  # histogram range: probabilities beyond 6e-6 from 0 or 1 share the outer bins
RESOLUTION = 1e-6
"""Logits closer than this are equal: float32 sums of equal inputs differ by up to 1e-7 in batches of other sizes."""


@dataclass(frozen=True)
class ScoreTable:
    """Scores float64 [U], ascending probabilities; weights of positives and negatives, each [..., U]."""

    scores: np.ndarray
    positives: np.ndarray
    negatives: np.ndarray


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % bootstrap interval; NaN if it is not defined (one class only)."""

    value: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float | None]:
        """Return the estimate for JSON, NaN as null."""
        pairs = (("value", self.value), ("low", self.low), ("high", self.high))
        return {name: None if np.isnan(number) else round(float(number), 6) for name, number in pairs}


def compute_auroc(table: ScoreTable) -> np.ndarray:
    """Return the probability that a positive scores above a negative, ties counting half."""
    return compute_auroc_from_counts(table.positives, table.negatives)


def compute_auprc(table: ScoreTable) -> np.ndarray:
    """Return average precision: the precision at each threshold, weighted by the gain in recall."""
    hits = np.cumsum(table.positives[..., ::-1], axis=-1)
    called = hits + np.cumsum(table.negatives[..., ::-1], axis=-1)
    precision = np.divide(hits, called, out=np.zeros_like(hits, dtype=float), where=called > 0)
    return divide_or_nan((table.positives[..., ::-1] * precision).sum(-1), table.positives.sum(-1))


def compute_balanced_accuracy(table: ScoreTable, threshold: float = 0.5) -> np.ndarray:
    """Return the mean of sensitivity and specificity at `threshold`, which rounding takes no score below."""
    called = _compute_logits(table.scores) >= _compute_logits(np.array(threshold)) - RESOLUTION
    sensitivity = divide_or_nan(table.positives[..., called].sum(-1), table.positives.sum(-1))
    specificity = divide_or_nan(table.negatives[..., ~called].sum(-1), table.negatives.sum(-1))
    return (sensitivity + specificity) / 2


def compute_calibration_error(table: ScoreTable) -> np.ndarray:
    """Return the mean distance between predicted probability and observed frequency, over equal-width bins."""
    bins = np.minimum((table.scores * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    weight = table.positives + table.negatives
    gaps = np.zeros(weight.shape[:-1])
    for index in np.unique(bins):
        inside = bins == index
        stated = (weight[..., inside] * table.scores[inside]).sum(-1)
        gaps = gaps + np.abs(stated - table.positives[..., inside].sum(-1))
    return divide_or_nan(gaps, weight.sum(-1))


METRICS: dict[str, Callable[[ScoreTable], np.ndarray]] = {
    "auroc": compute_auroc,
    "auprc": compute_auprc,
    "balanced_accuracy": compute_balanced_accuracy,
    "calibration_error": compute_calibration_error,
}


def build_score_table(scores: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> ScoreTable:
    """Return the table of `scores` [N] with labels bool [N] and weights [..., N].

    Scores that are equal up to rounding are tied.
    """
    order = np.argsort(scores, kind="stable")
    starts = _find_distinct_scores(scores[order])
    ordered, labels = weights[..., order], positive[order]
    sums = [np.add.reduceat(ordered * chosen, starts, axis=-1) for chosen in (labels, ~labels)]
    return ScoreTable(scores[order][starts], *sums)


def _find_distinct_scores(ascending: np.ndarray) -> np.ndarray:
    """Return the place of the first of each group of equal probabilities [N].

    A group spans `RESOLUTION` from its first score, not from one to the next, so that no chain of small steps ties
    scores that differ.
    """
    logits = _compute_logits(ascending)
    tolerance = RESOLUTION * np.maximum(1.0, np.abs(logits))
    apart = np.diff(logits, prepend=-np.inf) > tolerance
    first = np.maximum.accumulate(np.where(apart, np.arange(len(logits)), 0))
    step = np.floor((logits - logits[first]) / tolerance[first])
    starts: np.ndarray = np.flatnonzero(apart | (np.diff(step, prepend=0.0) != 0))
    return starts


def _compute_logits(probabilities: np.ndarray) -> np.ndarray:
    """Return logits, finite also for 0 and 1."""
    smallest = np.finfo(np.float64)
    with_class = np.maximum(probabilities, smallest.tiny)
    without: np.ndarray = np.maximum(1.0 - probabilities, smallest.epsneg)
    return np.log(with_class) - np.log(without)


def bin_scores(scores: np.ndarray, bins: int, limit: float = LOGIT_LIMIT) -> np.ndarray:
    """Return the bin 0..bins-1 of each probability; bins have equal width in logits, fine-grained for rare classes.

    NaN is in the bin of 0.5. The outer bins hold everything beyond the logit `limit`. All edges are `RESOLUTION`
    lower than that, so that rounding moves no score of 0.5, which is an edge, into the bin below.
    """
    clipped = np.clip(np.nan_to_num(scores.astype(np.float64), nan=0.5), 1e-12, 1 - 1e-12)
    place = (np.log(clipped / (1 - clipped)) + RESOLUTION + limit) / (2 * limit)
    return np.clip((place * bins).astype(int), 0, bins - 1)


def compute_bin_centres(bins: int, limit: float = LOGIT_LIMIT) -> np.ndarray:
    """Return the probability at the middle of each bin, ascending."""
    logits = (np.arange(bins) + 0.5) / bins * 2 * limit - limit
    centres: np.ndarray = 1 / (1 + np.exp(-logits))
    return centres


def draw_poisson_weights(clusters: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Return bootstrap weights [resamples, N]: one Poisson(1) draw per cluster (patient), shared by its rows.

    Passing the same seed for two models pairs them: their difference is resampled, not their noise.
    """
    distinct, inverse = np.unique(clusters, return_inverse=True)
    draws = np.random.default_rng(seed).poisson(1.0, (resamples, len(distinct)))
    return draws[:, inverse].astype(np.float64)


def macro_average(metric: Callable[[ScoreTable], np.ndarray], tables: Iterable[ScoreTable]) -> np.ndarray:
    """Return the mean of `metric` over the classes for which it is defined."""
    values = np.stack([metric(table) for table in tables])
    defined = ~np.isnan(values)
    return divide_or_nan(np.where(defined, values, 0.0).sum(0), defined.sum(0))


def estimate_interval(values: np.ndarray, point: float) -> Estimate:
    """Return `point` with the 2.5 and 97.5 percentiles of its bootstrap values."""
    defined = values[~np.isnan(values)]
    if np.isnan(point) or len(defined) < 2:
        return Estimate(point, float("nan"), float("nan"))
    low, high = np.percentile(defined, [2.5, 97.5])
    return Estimate(point, float(low), float(high))


def estimate_biased_interval(values: np.ndarray, point: float) -> Estimate:
    """Return `point`, which is at least 0, with an interval of its bootstrap values, cut at 0 and widened to hold it.

    For a metric that chance makes larger: in the sample than in truth, and in a resample once more. The percentiles may
    all lie above the sample's own value. The lower end is therefore the basic bootstrap's, which takes the deviations
    of the resamples for those of the sample (Davison and Hinkley, Bootstrap Methods and their Application, 1997,
    section 5.2). The upper end is the percentile: the basic one is too low where the value is small by chance.
    """
    found = estimate_interval(values, point)
    return Estimate(point, float(np.clip(2 * point - found.high, 0.0, point)), float(np.maximum(point, found.high)))


def estimate_metric(name: str, drawn: np.ndarray) -> Estimate:
    """Return a metric's value, `drawn[0]`, with the interval of its resamples `drawn[1:]`."""
    estimate = estimate_biased_interval if name == "calibration_error" else estimate_interval
    return estimate(drawn[1:], float(drawn[0]))


def apply_in_chunks(compute: Callable[[np.ndarray], np.ndarray], weights: np.ndarray) -> np.ndarray:
    """Apply `compute` to chunks of resamples and concatenate the results."""
    return np.concatenate([compute(weights[start : start + _CHUNK]) for start in range(0, len(weights), _CHUNK)])
