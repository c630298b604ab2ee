"""How noised counts travel: in fractions of a count, unrounded and unprojected, together with the size of their noise.

The noise is real-valued, so rounding to whole counts or cutting off negative ones at the site would bias every sum
over sites. Both happen after the sum is known, as post-processing. A site sends the variance of its noise with its
counts: it follows from the plan and the site's policy, never from patients, and the variances add up like the counts.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

COUNT_UNIT = 2**12
"""Words per count: finer than the grid of the noise (`gaussian_noise`), so that nothing is rounded twice."""
NOISE = "noise"
"""Last part of the name of the vector [1] that holds the variance of the counts of its group, such as `test.noise`."""


def is_noised_table(name: str, names: Collection[str]) -> bool:
    """Return whether a vector of statistics holds noised counts: its group has a vector of their variance.

    Args:
        name: of the vector, such as `test.positives`.
        names: of all vectors of the same reply.

    """
    variance = f"{name.partition('.')[0]}.{NOISE}"
    return variance in names and name != variance


def encode_counts(counts: np.ndarray) -> np.ndarray:
    """Return real counts, or a variance, as int64 words."""
    words: np.ndarray = np.rint(counts * COUNT_UNIT).astype(np.int64)
    return words


def decode_counts(words: np.ndarray) -> np.ndarray:
    """Return the real counts, or the variance, of a sum of words."""
    return words.astype(np.float64) / COUNT_UNIT


def project_to_counts(values: np.ndarray) -> np.ndarray:
    """Return the nearest counts [..., cells] that are not negative and keep their sum; zeros where it is not positive.

    Only cutting off negative values would leave a floor of noise in every empty cell. Euclidean projection onto a
    simplex: Duchi et al., ICML 2008.
    """
    total = np.maximum(values.sum(-1, keepdims=True), 0.0)
    descending = -np.sort(-values, axis=-1)
    excess = (np.cumsum(descending, axis=-1) - total) / np.arange(1, values.shape[-1] + 1)
    kept = np.maximum((descending > excess).sum(-1, keepdims=True) - 1, 0)
    projected: np.ndarray = np.where(total > 0, np.maximum(values - np.take_along_axis(excess, kept, -1), 0.0), 0.0)
    return projected
