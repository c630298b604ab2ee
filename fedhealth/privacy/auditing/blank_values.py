"""The noise of opened sums, read from blank values: every owner adds its share to zeros, so their sum is noise alone.

Every segment with shared noise has blanks. No patient contributes to them, so they cost no privacy, and over many sums
they show one missing share of m at 4.5 deviations from 40 m^2 values in all. They find mistakes: a site that wants to
harm its own patients can noise its blanks only. They do not tell which site it was.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # scipy.stats takes a second to import, and most runs share no noise
    from fedhealth.privacy.auditing.release_checks import AuditCheck, AuditFinding

_TAIL = 3.0  # standard deviations
_COARSEST_GRID = 1 / 16  # of a share's standard deviation
_FEWEST = 100  # values, for the tails
_CERTAIN = 1e-9  # probability of right noise that small; a run stops


@dataclass(frozen=True)
class BlankValues:
    """Blank values of opened sums, in standard deviations of the noise that they should have.

    Attributes:
        count: number of values.
        total: their sum.
        squares: the sum of their squares.
        beyond: how many are beyond three deviations.

    """

    count: int
    total: float
    squares: float
    beyond: int

    def __add__(self, other: BlankValues) -> BlankValues:
        """Return the values of both."""
        return BlankValues(
            self.count + other.count,
            self.total + other.total,
            self.squares + other.squares,
            self.beyond + other.beyond,
        )

    @property
    def variance_ratio(self) -> float:
        """Their variance, relative to the promised one."""
        return self.squares / self.count if self.count else math.nan

    @property
    def lacks_noise(self) -> bool:
        """Whether they have less noise than right code could have given them."""
        from scipy.stats import chi2

        return bool(chi2.cdf(self.squares, self.count) < _CERTAIN)


def measure_blanks(values: np.ndarray, owners: int, share_std: float, step: float) -> BlankValues:
    """Return the blank values of one opened sum.

    Args:
        values: real numbers [n].
        owners: whose shares are in the sum.
        share_std: of each share.
        step: of the grid, to which each share was rounded.

    """
    std = math.sqrt(owners * (share_std**2 + step**2 / 12))
    found = values.astype(np.float64) / std
    beyond = int((np.abs(found) > _TAIL).sum())
    return BlankValues(len(found), float(found.sum()), float(np.square(found).sum()), beyond)


def add_blanks(measured: Sequence[Mapping[str, BlankValues]]) -> dict[str, BlankValues]:
    """Return the blanks of several sums, by segment."""
    found: dict[str, BlankValues] = {}
    for each in measured:
        found |= {name: found[name] + part if name in found else part for name, part in each.items()}
    return found


def audit_blanks(measured: Mapping[str, BlankValues]) -> tuple[AuditFinding, ...]:
    """Return whether the noise of all opened sums has the promised size, mean zero and the tails of a Gaussian.

    Args:
        measured: over the whole run, by segment.

    """
    from fedhealth.privacy.auditing.release_checks import judge_checks

    checks = [
        check for name, blanks in sorted(measured.items()) if blanks.count for check in _list_checks(name, blanks)
    ]
    return judge_checks(checks)


def _list_checks(name: str, blanks: BlankValues) -> Iterator[AuditCheck]:
    from scipy.stats import binom, chi2, norm

    from fedhealth.privacy.auditing.release_checks import SLACK, AuditCheck

    count, ratio = blanks.count, blanks.variance_ratio
    nearest = (ratio - min(max(ratio - 1, -SLACK), SLACK)) * count
    size = 2 * min(chi2.cdf(nearest, count), chi2.sf(nearest, count))
    detail = f"{ratio:.3f} of its variance, from {count} values"
    yield AuditCheck(f"noise of the promised size in opened sums: {name}", min(1.0, float(size)), detail)
    mean = blanks.total / math.sqrt(count)
    yield AuditCheck(f"noise of mean zero in opened sums: {name}", 2 * float(norm.sf(abs(mean))), f"off by {mean:.1f}")
    if count >= _FEWEST:
        least, most = (2 * float(norm.sf(_TAIL + sign * _COARSEST_GRID / 2)) for sign in (1, -1))
        tails = 2 * min(binom.cdf(blanks.beyond, count, least), binom.sf(blanks.beyond - 1, count, most))
        detail = f"{blanks.beyond} of {count} values beyond {_TAIL:g} deviations"
        yield AuditCheck(f"noise with the tails of a Gaussian in opened sums: {name}", min(1.0, float(tails)), detail)
