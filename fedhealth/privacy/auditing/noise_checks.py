"""Statistical checks of noise: its size, the tails of its law, independence, and that no value is used twice.

Noise is read as the difference of repeated releases of one sum, or directly, where the sum is known: a batch without
patients releases noise and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import numpy as np
from scipy.stats import binom, chi2, kurtosistest, norm

from fedhealth.privacy.auditing.release_checks import SLACK, AuditCheck, check_fact

_FEWEST_VALUES = 32  # of a tensor, for a correlation
_LARGEST_OVERLAP = 1 << 14  # values compared between two tensors
_FEWEST_FOR_TAILS = 100
_TAIL = 3.0  # standard deviations
_COARSEST_GRID = 1 / 16  # of a standard deviation: noise is rounded to a grid (`gaussian_noise`)
_WINDOW = 16  # values in a row: at 5 bits each, two windows of independent noise are never equal
_MOST_VALUES = 1 << 18  # of which windows are compared


def check_noise_size(name: str, fits: Sequence[np.ndarray], std: float, known_mean: bool = False) -> AuditCheck:
    """Check the size of the noise in repeated releases of one sum.

    Args:
        name: of the tensor.
        fits: each [T, n]: T releases of a sum that is the same within the fit.
        std: the standard deviation that every value should have.
        known_mean: whether the sum is known to be zero.

    """
    freedom = sum((len(each) - (not known_mean)) * each.shape[1] for each in fits)
    total = sum(float(np.square(each if known_mean else _remove_mean(each)).sum()) for each in fits)
    ratio = total / std**2 / freedom if freedom else math.nan
    nearest = ratio - min(max(ratio - 1, -SLACK), SLACK)
    p_value = 2 * min(chi2.cdf(nearest * freedom, freedom), chi2.sf(nearest * freedom, freedom)) if freedom else 0.0
    return AuditCheck(f"noise of the planned size: {name}", min(1.0, float(p_value)), f"{ratio:.3f} of its variance")


def check_tails(name: str, values: np.ndarray) -> Iterator[AuditCheck]:
    """Check that noises, divided by their planned deviation, have the tails of a Gaussian.

    The kurtosis tells noise with a bound or with heavy tails in the bulk of the values. Their number beyond three
    deviations tells noise that was cut off; the grid of the noise may move this border.
    """
    if len(values) < _FEWEST_FOR_TAILS:
        yield check_fact(f"there is noise to read: {name}", False, f"{len(values)} values")
        return
    bulk = kurtosistest(values)
    yield AuditCheck(
        f"noise with the kurtosis of a Gaussian: {name}", float(bulk.pvalue), f"off by {bulk.statistic:.1f}"
    )
    beyond, size = int((np.abs(values) > _TAIL).sum()), len(values)
    least, most = (2 * float(norm.sf(_TAIL + sign * _COARSEST_GRID / 2)) for sign in (1, -1))
    p_value = 2 * min(binom.cdf(beyond, size, least), binom.sf(beyond - 1, size, most))
    yield AuditCheck(
        f"noise with the tails of a Gaussian: {name}",
        min(1.0, float(p_value)),
        f"{beyond} of {size} values beyond {_TAIL:g} deviations, expected {2 * norm.sf(_TAIL) * size:.0f}",
    )


def check_independence(name: str, one: np.ndarray, other: np.ndarray) -> AuditCheck:
    """Check that two noises [n] have no correlation (Fisher's transformation)."""
    size = min(len(one), len(other), _LARGEST_OVERLAP)
    x, y = (part[:size] - part[:size].mean() for part in (one, other))
    scale = math.sqrt(float((x @ x) * (y @ y)))
    correlation = float(x @ y) / scale if scale else 1.0
    shown = min(max(correlation, -1 + 1e-12), 1 - 1e-12)
    p_value = 2 * float(norm.sf(abs(math.atanh(shown)) * math.sqrt(max(size - 3, 1))))
    return AuditCheck(f"independent noise: {name}", p_value, f"correlation {correlation:.2f} of {size} values")


def check_uniqueness(fits: Sequence[Mapping[str, np.ndarray]]) -> Iterator[AuditCheck]:
    """Check that the noise differs between runs, steps and tensors."""
    noises = [{name: _remove_mean(sums) for name, sums in fit.items()} for fit in fits]
    flat = [np.concatenate([part.ravel() for part in noise.values()]) for noise in noises]
    yield check_independence("of two fits", *flat)
    steps = np.concatenate(list(fits[0].values()), axis=1)  # a difference of two steps has no gradient in it
    yield check_independence("of two steps", steps[0] - steps[1], steps[2] - steps[3])
    names = sorted(noises[0], key=lambda name: -noises[0][name].size)
    for one, other in pairwise(names):
        if noises[0][other].size >= _FEWEST_VALUES:
            width = min(noises[0][one].shape[1], noises[0][other].shape[1])
            pair = (noises[0][name][:, :width].ravel() for name in (one, other))
            yield check_independence(f"of {one} and {other}", *pair)


def check_matrix(name: str, noise: np.ndarray, width: int) -> Iterator[AuditCheck]:
    """Check that the rows and the columns of a matrix do not share noise.

    Args:
        name: of the tensor.
        noise: [n] of one step.
        width: the length of the tensor's last dimension.

    """
    if len(noise) >= width + _FEWEST_VALUES:
        yield check_independence(f"of the rows of {name}", noise[:-width], noise[width:])
        yield check_independence(f"of the columns of {name}", noise[:-1], noise[1:])


def check_single_use(noises: Sequence[np.ndarray]) -> AuditCheck:
    """Check that no values in a row occur twice, whatever their sign: between steps, tensors, fits or inside of one.

    Args:
        noises: noise without anything else, each [n]; exactly as it was released, up to a common factor.

    """
    values = np.abs(np.concatenate(noises))[:_MOST_VALUES]
    if len(values) < _WINDOW:
        return check_fact("no noise is used twice", True, "too few values")
    codes = np.unique(values, return_inverse=True)[1].astype(np.uint64)
    found = np.zeros(len(codes) - _WINDOW + 1, np.uint64)  # a hash of each window
    for place, factor in enumerate(np.random.default_rng(0).integers(1, 2**63, _WINDOW, np.uint64)):
        found += codes[place : place + len(found)] * factor
    repeated = len(found) - len(np.unique(found))
    return check_fact("no noise is used twice", not repeated, f"{repeated} of {len(found)} sequences occur before")


def _remove_mean(repeated: np.ndarray) -> np.ndarray:
    return repeated - repeated.mean(0)
