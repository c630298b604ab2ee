"""The one definition of AUROC: a function of how many positives and negatives have each distinct score."""

from __future__ import annotations

import numpy as np


def compute_auroc_from_counts(positives: np.ndarray, negatives: np.ndarray) -> np.ndarray:
    """Return the probability that a positive scores above a negative, ties counting half; NaN with one class only.

    Args:
        positives: counts or weights [..., U] at the distinct scores, in ascending order of the score.
        negatives: the same for the negatives.

    """
    below = np.cumsum(negatives, axis=-1) - negatives / 2
    pairs = positives.sum(-1) * negatives.sum(-1)
    return divide_or_nan((positives * below).sum(-1), pairs)


def divide_or_nan(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Return the quotients; NaN where the denominator is not positive."""
    above, below = np.asarray(above, float), np.asarray(below, float)
    return np.divide(above, below, out=np.full(np.broadcast(above, below).shape, np.nan), where=below > 0)
