"""Statistical checks of what private training releases; a check fails if its p-value is below its share of the level.

A failure that chance may explain is measured a second time (`judge_measurements`).

Each check compares recorded releases with a distribution that is known if the code does what the plan says: noise
(`noise_checks`), Bernoulli draws of patients (binomial, dispersion, draws in common), and clipped gradients as the mean
difference between training with and without a patient, or as the mean sum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import numpy as np
from scipy.stats import binom, chi2, norm

LEVEL = 1e-3
"""Probability that one measurement of right code fails, all of its checks together."""
CERTAIN = 1e-8
"""A check with a p-value below this fails without a second measurement."""
CONFIRMING_LEVEL = 1e-2
"""Probability that a second measurement of right code confirms the first's failures, all together."""
SLACK = 3e-3
"""Relative: the grid of the noise, float32 and the movement of the weights between steps."""


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

    def __str__(self) -> str:
        return f"{self.name} ({self.detail})"


def judge_checks(checks: Sequence[AuditCheck]) -> tuple[AuditFinding, ...]:
    """Return the result of each check; the level is divided among them."""
    share = LEVEL / max(len(checks), 1)
    return tuple(AuditFinding(each.name, each.p_value >= share, each.detail) for each in checks)


def judge_measurements(measure: Callable[[], Sequence[AuditCheck]]) -> tuple[AuditFinding, ...]:
    """Measure and judge; failures that may be chance are measured a second time, and count if they come back.

    Many hospitals audit many runs. At `LEVEL` alone right code would fail in one of 250 rehearsals of four hospitals;
    with the second measurement an audit of right code fails with a probability of about 1e-5. A lasting fault is found
    as before: the second measurement judges what failed at a milder level, and everything else as the first did. A
    fault in a process's first measurement only is found below `CERTAIN`.

    Args:
        measure: returns all checks of an audit, measured anew at each call.

    """
    first = measure()
    failed = {check.name for check, finding in zip(first, judge_checks(first), strict=True) if not finding.passed}
    if not failed or any(check.p_value < CERTAIN for check in first):
        return judge_checks(first)
    second = measure()
    names = [check.name for check in second]
    limits = {name: CONFIRMING_LEVEL / (len(failed) * max(names.count(name), 1)) for name in failed}
    share = LEVEL / len(second)
    found = [AuditFinding(c.name, c.p_value >= limits.get(c.name, share), c.detail) for c in second]
    missing = [each for each in judge_checks(first) if not each.passed and each.name not in names]
    return (*found, *missing)


def check_fact(name: str, holds: bool, detail: str) -> AuditCheck:
    """Return a check in which chance has no part."""
    return AuditCheck(name, 1.0 if holds else 0.0, detail)


def check_fresh_draws(
    name: str, pairs: Sequence[tuple[AbstractSet[int], AbstractSet[int]]], units: int, sample_rate: float
) -> AuditCheck:
    """Check that two draws share as many units as independent draws do: their number is binomial.

    Args:
        name: where the draws should differ.
        pairs: of draws; no draw is in two pairs.
        units: to draw from.
        sample_rate: of each draw.

    """
    shared, most, rate = sum(len(one & other) for one, other in pairs), units * len(pairs), sample_rate**2
    tails = binom.cdf(shared, most, rate), binom.sf(shared - 1, most, rate)
    detail = f"{shared} patients drawn twice, expected {most * rate:.0f}"
    return AuditCheck(f"patients are drawn anew {name}", min(1.0, 2 * float(min(tails))), detail)


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


def check_equal_rates(counts: Sequence[int], steps: int, sample_rate: float) -> AuditCheck:
    """Check that every unit is drawn with the same rate.

    Args:
        counts: how often each unit was drawn.
        steps: in which it could be.
        sample_rate: of each step, below 1.

    """
    off = (np.asarray(counts) - steps * sample_rate) ** 2 / (steps * sample_rate * (1 - sample_rate))
    p_value = 2 * min(chi2.cdf(off.sum(), len(counts)), chi2.sf(off.sum(), len(counts)))
    return AuditCheck("every patient has the same rate", min(1.0, float(p_value)), f"dispersion {off.mean():.2f} of 1")


def check_contribution(
    name: str, found: np.ndarray, planned: np.ndarray, std: float, scale: float | None = None
) -> AuditCheck:
    """Check a mean contribution [n], along its direction and at right angles to it.

    Args:
        name: whose it is, and of which tensor.
        found: mean difference between training with and without the patient, or mean sum.
        planned: the clipped gradient, or the sum of all.
        std: standard deviation of `found`.
        scale: norm that the slack is relative to; None for that of `planned`.

    """
    length = float(np.linalg.norm(planned))
    slack = SLACK * (length if scale is None else scale)
    off = found - planned
    along = float(off @ planned) / length if length else 0.0
    rest = max(float(off @ off) - along**2, 0.0)
    p_along = 2 * float(norm.sf(max(abs(along) - slack, 0.0) / std))
    freedom = max(len(found) - 1, 1)
    p_rest = float(chi2.sf((rest - slack**2) / std**2 / (1 + 2 * SLACK), freedom)) if len(found) > 1 else 1.0
    detail = f"{1 + along / length:.3f} of the clipped gradient" if length else "no gradient"
    return AuditCheck(name, min(1.0, 2 * min(p_along, p_rest)), detail)
