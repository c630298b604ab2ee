"""Statistical checks of what private training releases; a check fails if its p-value is below its share of the level.

Each check compares recorded releases with a distribution that is known if the code does what the plan says: Gaussian
noise of a given size and independent everywhere (chi-square, correlation), Bernoulli draws of patients (binomial,
dispersion), and a clipped gradient as the mean difference between training with and without a patient.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.stats import binom, chi2, norm

LEVEL = 1e-3
"""Probability that an audit of right code fails, all of its checks together."""
_SLACK = 3e-3  # relative: the grid of the noise, float32 and the movement of the weights between steps
_FEWEST_VALUES = 32  # of a tensor, for a correlation
_LARGEST_OVERLAP = 1 << 14  # values compared between two tensors


@dataclass(frozen=True)
class AuditCheck:
    """One check.

    Attributes:
        name: what is true if it passes.
        p_value: probability of a result as far off, or farther, if the code is right; 0 or 1 where chance has no part.
        detail: what was found.

    """

    name: str
    p_value: float
    detail: str


@dataclass(frozen=True)
class AuditFinding:
    """One check of an audit and its result."""

    name: str
    passed: bool
    detail: str


def judge_checks(checks: Sequence[AuditCheck]) -> tuple[AuditFinding, ...]:
    """Return the result of each check; the level is divided among them."""
    share = LEVEL / max(len(checks), 1)
    return tuple(AuditFinding(each.name, each.p_value >= share, each.detail) for each in checks)


def check_fact(name: str, holds: bool, detail: str) -> AuditCheck:
    """Return a check in which chance has no part."""
    return AuditCheck(name, 1.0 if holds else 0.0, detail)


def check_noise_size(name: str, fits: Sequence[np.ndarray], std: float) -> AuditCheck:
    """Check the size of the noise in repeated releases of one sum.

    Args:
        name: of the tensor.
        fits: each [T, n]: T releases of a sum that is the same within the fit.
        std: the standard deviation that every value should have.

    """
    freedom = sum((len(each) - 1) * each.shape[1] for each in fits)
    ratio = sum(float(np.square(each - each.mean(0)).sum()) for each in fits) / std**2 / freedom
    nearest = ratio - min(max(ratio - 1, -_SLACK), _SLACK)
    p_value = 2 * min(chi2.cdf(nearest * freedom, freedom), chi2.sf(nearest * freedom, freedom))
    return AuditCheck(f"noise of the planned size: {name}", min(1.0, float(p_value)), f"{ratio:.3f} of its variance")


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


def check_sampling_law(drawn: Sequence[int], units: int, sample_rate: float) -> list[AuditCheck]:
    """Check numbers of units drawn, one per step: their total is binomial, and so is their dispersion."""
    steps, total = len(drawn), sum(drawn)
    expected = units * steps
    tails = binom.cdf(total, expected, sample_rate), binom.sf(total - 1, expected, sample_rate)
    mean = AuditCheck(
        "patients are drawn with the booked rate",
        min(1.0, 2 * float(min(tails))),
        f"{total / expected:.3f} of them, planned {sample_rate:.3f}",
    )
    if sample_rate == 1:
        return [mean]
    spread = sum((each - units * sample_rate) ** 2 for each in drawn) / (units * sample_rate * (1 - sample_rate))
    both = 2 * float(min(chi2.cdf(spread, steps), chi2.sf(spread, steps)))
    return [
        mean,
        AuditCheck("patients are drawn independently", min(1.0, both), f"dispersion {spread / steps:.2f} of 1"),
    ]


def check_contribution(name: str, found: np.ndarray, planned: np.ndarray, std: float) -> AuditCheck:
    """Check one patient's mean contribution [n], along its direction and at right angles to it.

    Args:
        name: of the tensor, or of all together.
        found: mean difference between training with and without the patient.
        planned: the clipped gradient.
        std: standard deviation of `found`.

    """
    length = float(np.linalg.norm(planned))
    off = found - planned
    along = float(off @ planned) / length if length else 0.0
    rest = max(float(off @ off) - along**2, 0.0)
    p_along = 2 * float(norm.sf(max(abs(along) - _SLACK * length, 0.0) / std))
    freedom = max(len(found) - 1, 1)
    p_rest = float(chi2.sf(rest / std**2 / (1 + 2 * _SLACK), freedom)) if len(found) > 1 else 1.0
    detail = f"{1 + along / length:.3f} of the clipped gradient" if length else "no gradient"
    return AuditCheck(f"one patient's contribution: {name}", min(1.0, 2 * min(p_along, p_rest)), detail)


def _remove_mean(repeated: np.ndarray) -> np.ndarray:
    return repeated - repeated.mean(0)
