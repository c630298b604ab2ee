"""Membership test: an empirical lower bound on epsilon from a model's losses, to compare with the claimed epsilon.

Yeom et al., CSF 2018: the loss of members against that of non-members under one threshold. It needs no training.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedhealth.errors import PrivacyError
from fedhealth.utils.privacy_text import format_epsilon

FEWEST_PATIENTS = 4  # of members and of others: half of each choose the threshold, half are judged by it


@dataclass(frozen=True)
class EpsilonLowerBound:
    """The result of a statistical audit.

    Attributes:
        claimed: epsilon of the plan.
        found: epsilon is at least this, with the confidence.
        delta: at which both are measured.
        confidence: of `found`.

    """

    claimed: float
    found: float
    delta: float
    confidence: float

    @property
    def is_consistent(self) -> bool:
        """Whether the bound is compatible with the claim."""
        return self.found <= self.claimed

    def __str__(self) -> str:
        found = f"empirical lower bound {self.found:.2g} ({100 * self.confidence:.0f} %)"
        return f"claimed {format_epsilon(self.claimed, self.delta)}, {found}"


def compute_binomial_pmf(n: int, p: float) -> NDArray[np.float64]:
    """Return the probabilities of 0..n successes."""
    if p in (0.0, 1.0):
        return np.eye(n + 1)[0 if p == 0 else n]
    k = np.arange(n + 1)
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    log_choose = log_factorial[n] - log_factorial - log_factorial[::-1]
    pmf: NDArray[np.float64] = np.exp(log_choose + k * math.log(p) + (n - k) * math.log1p(-p))
    return pmf


def run_membership_test(
    members: NDArray[np.floating], others: NDArray[np.floating], claimed: float, delta: float, confidence: float = 0.95
) -> EpsilonLowerBound:
    """Bound epsilon by how well one loss threshold tells members from non-members.

    The threshold is chosen on every second value and evaluated on the others.

    Args:
        members: losses of patients in the training set.
        others: losses of patients that were not.
        claimed: epsilon of the plan.
        delta: its delta.
        confidence: of the bound.

    Raises:
        PrivacyError: there are fewer than `FEWEST_PATIENTS` members or others.

    """
    if min(len(members), len(others)) < FEWEST_PATIENTS:
        raise PrivacyError(
            f"The membership test needs at least {FEWEST_PATIENTS} members and {FEWEST_PATIENTS} others, not "
            f"{len(members)} and {len(others)}.",
            "Give it more patients.",
        )
    candidates = np.concatenate([members[::2], others[::2]])
    best = max(candidates, key=lambda t: (members[::2] <= t).mean() - (others[::2] <= t).mean())
    inside, outside = members[1::2] <= best, others[1::2] <= best
    level = (1 - confidence) / 2
    hits, alarms = (
        _compute_rate_lower_limit(int(inside.sum()), len(inside), level),
        _compute_rate_upper_limit(int(outside.sum()), len(outside), level),
    )
    found = math.log((hits - delta) / alarms) if hits > delta + alarms else 0.0
    return EpsilonLowerBound(claimed, found, delta, confidence)


def _compute_rate_lower_limit(right: int, n: int, level: float) -> float:
    """Return the Clopper-Pearson lower limit of a rate."""
    low, high = 0.0, right / n
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (middle, high) if compute_binomial_pmf(n, middle)[right:].sum() < level else (low, middle)
    return low


def _compute_rate_upper_limit(right: int, n: int, level: float) -> float:
    return 1 - _compute_rate_lower_limit(n - right, n, level)
