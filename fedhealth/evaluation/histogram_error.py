"""Bounds on the error of a metric that is computed from summed histograms instead of single studies.

A histogram does not record the order of the studies within a bin or their exact scores. The bounds assume the worst
case for both. They use only the counts, so anyone who has the metric can also compute its error.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fedhealth.evaluation import metrics
from fedhealth.evaluation.metrics import CALIBRATION_BINS, LOGIT_LIMIT
from fedhealth.evaluation.predictions import ScoreHistograms


def bound_auroc_error(positives: np.ndarray, negatives: np.ndarray) -> float:
    """Return the largest error of a histogram's AUROC: pairs within a bin count half, but could count 0 or 1.

    Args:
        positives: counts [bins].
        negatives: counts [bins].

    """
    return float((positives * negatives).sum() / (2 * positives.sum() * negatives.sum()))


def bound_auprc_error(positives: np.ndarray, negatives: np.ndarray) -> float:
    """Return the largest error of a histogram's average precision.

    The precision is largest if the positives of a bin share one score above its negatives, and smallest if all scores
    differ and the negatives come first: sum over i = 1..p of (h + i) / (c + n + i), with h positives among the c
    studies above the bin.
    """
    from scipy.special import digamma  # takes a tenth of a second to import

    hits = np.cumsum(positives[::-1])[::-1] - positives  # above the bin
    called = hits + np.cumsum(negatives[::-1])[::-1] - negatives
    some = positives > 0
    p, n, h, c = (counts[some].astype(float) for counts in (positives, negatives, hits, called))
    best = (p * (h + p) / (c + p)).sum()
    worst = (p - (c + n - h) * (digamma(c + n + p + 1) - digamma(c + n + 1))).sum()
    seen = (p * (h + p) / (c + n + p)).sum()
    return float(max(best - seen, seen - worst) / p.sum())


def bound_calibration_error(positives: np.ndarray, negatives: np.ndarray) -> float:
    """Return the largest error of a histogram's expected calibration error.

    A probability differs from the middle of its bin by at most the distance to the farther edge. If a score bin crosses
    the edge of a calibration bin, its studies may belong to either calibration bin.
    """
    low, high = compute_bin_edges(len(positives))
    middle = metrics.compute_bin_centres(len(positives))
    apart = np.maximum(high - middle, middle - low)
    # a study next to the edge moves its distance from its label from one calibration bin to the other
    torn = _calibration_bin(low) != _calibration_bin(np.nextafter(high, 0))
    moved = np.where(torn, 2 * (positives * (1 - low) + negatives * high), 0.0)
    total = positives + negatives
    return float(min(1.0, (total * apart + moved).sum() / total.sum()))


def bound_balanced_accuracy_error(positives: np.ndarray, negatives: np.ndarray, threshold: float = 0.5) -> float:
    """Return the largest error of a histogram's balanced accuracy: the studies in the bin that holds the threshold."""
    low, high = compute_bin_edges(len(positives))
    torn = (low < threshold) & (high > threshold)
    return float((positives[torn].sum() / positives.sum() + negatives[torn].sum() / negatives.sum()) / 2)


ERROR_BOUNDS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "auroc": bound_auroc_error,
    "auprc": bound_auprc_error,
    "balanced_accuracy": bound_balanced_accuracy_error,
    "calibration_error": bound_calibration_error,
}
"""Error bounds by metric; each needs studies with and without the class."""


def bound_errors(counts: ScoreHistograms) -> dict[str, float]:
    """Return the error bound of each metric, averaged over classes like the metrics; empty if none is defined."""
    pairs = [
        (positives, negatives)
        for positives, negatives in zip(counts.positives, counts.negatives, strict=True)
        if positives.any() and negatives.any()
    ]
    return (
        {name: float(np.mean([error(*pair) for pair in pairs])) for name, error in ERROR_BOUNDS.items()}
        if pairs
        else {}
    )


def compute_bin_edges(bins: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the smallest and the largest probability of each bin of `metrics.bin_scores`."""
    logits = np.linspace(-LOGIT_LIMIT, LOGIT_LIMIT, bins + 1)
    edges = 1 / (1 + np.exp(-logits))
    edges[0], edges[-1] = 0.0, 1.0
    return edges[:-1], edges[1:]


def _calibration_bin(probability: np.ndarray) -> np.ndarray:
    return np.minimum((probability * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
