"""Noise inside a secure sum: every owner adds one share of it, rounds to a public grid, and only then masks.

A share is Gaussian with the standard deviation s = sigma C / sqrt(h), drawn in floating point and added to the site's
own sum; h owners of every opened sum are honest, so their shares alone have the variance (sigma C)^2. With a grid of
steps u between s / 32 and s / 16, the opened sum is a function of the un-rounded one: given the sum of at least two
shares, the fractional parts of all but one are uniform, up to a total variation of 2 (m - 1) exp(-2 pi^2 k^2 s^2 /
(2 u^2)) summed over k, below 1e-1000 for s = 16 u. So privacy is that of one Gaussian mechanism, at any word size.
docs/privacy.md has the proof. Words wrap around modulo 2^k after the noise: that is a function of the sum as well.
"""

import math

from fedhealth.secagg.errors import refuse_unless

GRID_BITS = 4  # a share's standard deviation is 2^4 to 2^5 steps of the grid
LEAST_SHARES = 2  # honest shares in an opened sum; the lemma needs two
BLANK_VALUES = 256  # of a segment: zeros of every owner, whose sum is the noise alone
_BLANKS = "blanks."  # first part of their name
_NOISE_TAIL = 10.0  # standard deviations of all shares together that the words leave room for
_ROUNDING_TAIL = 5.8  # the same, of the roundings: each is off by at most half a step


def name_blanks(segment: str) -> str:
    """Return the name of a segment's blank values, to which no patient contributes."""
    return _BLANKS + segment


def is_blank(name: str) -> bool:
    """Return whether values of this name are blank."""
    return name.startswith(_BLANKS)


def compute_share_std(noise_std: float, shares: int) -> float:
    """Return the standard deviation of one share of noise whose sum over `shares` sites has `noise_std`."""
    refuse_unless(0 < noise_std < math.inf and shares >= LEAST_SHARES, "noise of this size cannot be shared", rule="R8")
    return noise_std / math.sqrt(shares)


def compute_grid_step(share_std: float) -> float:
    """Return the step of the grid: a power of two between 1/32 and 1/16 of a share's standard deviation."""
    return 2.0 ** (math.floor(math.log2(share_std)) - GRID_BITS)


def compute_share_bound(share_std: float, bits: int, sites: int) -> float:
    """Return the largest magnitude of a value before the noise, so that the sum over all sites does not wrap around.

    Args:
        share_std: of one share.
        bits: of a word.
        sites: most sites in the sum.

    """
    step = compute_grid_step(share_std)
    tails = _NOISE_TAIL * (share_std / step) * math.sqrt(sites) + _ROUNDING_TAIL * math.sqrt(sites) / 2
    return step * max(0, math.floor((2 ** (bits - 1) - 1 - tails) / sites))


def count_honest_shares(owners: int, announced: int, threshold: int, colluders: int, min_owners: int) -> int:
    """Return h: how many honest owners of a segment are in every sum of it that can be opened.

    Args:
        owners: of the segment among the announced members.
        announced: members of the run that have announced a key.
        threshold: answers that open a sum.
        colluders: sites that are assumed to collude.
        min_owners: owners without which the segment is not opened.

    """
    return max(min_owners, owners - max(0, announced - threshold)) - colluders
