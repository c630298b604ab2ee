"""The noise of a sum is shared: how many shares count, the grid, the room in a word, and why rounding costs nothing."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from fedhealth.secagg.errors import ProtocolViolationError
from fedhealth.secagg.primitives.layout import Segment, VectorSpec, make_noised_segment
from fedhealth.secagg.primitives.noise_grid import (
    compute_grid_step,
    compute_share_bound,
    compute_share_std,
    count_honest_shares,
)
from fedhealth.secagg.protocol.threshold import (
    ThresholdPolicy,
    compute_smallest_split,
    compute_thresholds,
    needs_signatures,
)

TABLE = [  # n, colluders, threshold, honest shares, s* without signatures, must be signed
    (3, 0, 3, 3, 3, False),
    (4, 1, 3, 2, 2, False),
    (5, 1, 4, 3, 3, False),
    (6, 1, 5, 4, 4, False),
    (7, 2, 5, 3, 2, True),
    (8, 2, 6, 4, 3, True),
    (10, 3, 7, 4, 2, True),
    (12, 3, 9, 6, 5, True),
    (15, 4, 11, 7, 5, True),
    (20, 6, 14, 8, 4, True),
    (50, 16, 34, 18, 4, True),
]


@pytest.mark.parametrize(("n", "colluders", "threshold", "honest", "smallest", "signed"), TABLE)
def test_the_shares_that_count_and_the_signatures_that_they_need(n, colluders, threshold, honest, smallest, signed):
    found = compute_thresholds(n, ThresholdPolicy())
    assert (found.colluders, found.threshold) == (colluders, threshold)
    assert count_honest_shares(n, n, threshold, colluders, found.min_owners) == honest == threshold - colluders
    assert compute_smallest_split(n, threshold, colluders) == smallest
    assert needs_signatures(found, n, (n,), (honest,)) is signed
    everybody = compute_smallest_split(n, n, colluders)
    assert everybody == n - colluders == count_honest_shares(n, n, n, colluders, found.min_owners)


@pytest.mark.parametrize("n", [8, 12, 20])
def test_sums_that_need_no_signatures_without_shared_noise_need_them_with_it(n):
    found = compute_thresholds(n, ThresholdPolicy())
    assert not needs_signatures(found, n, (n,), (0,)) or compute_smallest_split(n, found.threshold, found.colluders) < 3
    assert needs_signatures(found, n, (n,), (found.threshold - found.colluders,))


@given(st.integers(3, 40), st.data())
def test_no_more_shares_count_than_honest_owners_survive(n, data):
    found = compute_thresholds(n, ThresholdPolicy())
    threshold = data.draw(st.integers(found.threshold, n))
    announced = data.draw(st.integers(threshold, n))
    owners = data.draw(st.integers(min(found.min_owners, announced), announced))
    honest = count_honest_shares(owners, announced, threshold, found.colluders, found.min_owners)
    missing_owners = min(owners, announced - threshold)  # the worst survivors: all that are missing own the segment
    survivors = max(owners - missing_owners, found.min_owners)  # with fewer, the segment is not opened
    assert honest <= survivors - found.colluders


@given(st.floats(1e-6, 1e6), st.integers(2, 40), st.sampled_from([16, 24, 32]), st.integers(2, 60))
def test_the_grid_and_the_room_in_a_word(noise, shares, bits, sites):
    std = compute_share_std(noise, shares)
    step, bound = compute_grid_step(std), compute_share_bound(std, bits, sites)
    assert 16 <= std / step < 32
    assert math.log2(step).is_integer()
    tails = 10 * std / step * math.sqrt(sites) + 5.8 * math.sqrt(sites) / 2
    assert bound / step * sites + tails <= 2 ** (bits - 1) - 1
    assert math.isclose(std * math.sqrt(shares), noise)


def test_24_bits_have_room_for_large_hospitals():
    # sigma 2: 2,600 patients of one step at each of 50 sites, all with the same gradient of the whole clipping bound
    assert compute_share_bound(compute_share_std(2.0, 34 - 16), 24, 50) >= 2_600
    assert compute_share_bound(compute_share_std(2.0, 2), 24, 4) >= 100_000
    assert compute_share_bound(compute_share_std(2.0, 34 - 16), 16, 50) < 20  # too little: such a sum is refused


@pytest.mark.parametrize(("noise", "shares"), [(0.0, 3), (math.inf, 3), (1.0, 1), (1.0, 0)])
def test_noise_that_nobody_can_share_is_refused(noise, shares):
    with pytest.raises(ProtocolViolationError):
        compute_share_std(noise, shares)


@pytest.mark.parametrize("change", ["step", "bound", "share_std", "shares", "kind"])
def test_a_segment_whose_grid_does_not_follow_from_its_noise_is_refused(change):
    good = make_noised_segment("a", "a", {"w": 3}, noise_std=2.0, shares=3, bits=24, sites=4)
    entry = good.entries[0]
    fields = {name: getattr(good, name) for name in ("name", "tower", "kind", "bits", "sites", "share_std", "shares")}
    if change in ("step", "bound"):
        numbers = {"bound": entry.bound, "step": entry.step}
        entry = VectorSpec("w", 3, **(numbers | {change: 2 * numbers[change]}))
    else:
        fields |= {"share_std": {"share_std": 2.1}, "shares": {"shares": 1}, "kind": {"kind": "model"}}[change]
    with pytest.raises(ProtocolViolationError):
        Segment(**fields, entries=(entry,))


def compute_rounded_pmf(std, offset):
    """Return the distribution of rint(offset + N(0, std^2)), in whole steps, on a grid wide enough for double."""
    at = np.arange(-int(14 * std) - 4, int(14 * std) + 5)
    upper, lower = norm.cdf((at + 0.5 - offset) / std), norm.cdf((at - 0.5 - offset) / std)
    right = norm.sf((at - 0.5 - offset) / std) - norm.sf((at + 0.5 - offset) / std)
    return np.where(at > offset, right, upper - lower)  # no cancellation in either tail


def compute_hockey_stick(std, offsets, change, epsilon):
    """Return delta at an epsilon, in both directions, of the sum of rounded shares when one value changes."""
    whole = [compute_rounded_pmf(std, offset) for offset in offsets]
    other = [compute_rounded_pmf(std, offsets[0] + change), *whole[1:]]
    first, second = whole[0], other[0]
    for one, two in zip(whole[1:], other[1:], strict=True):
        first, second = np.convolve(first, one), np.convolve(second, two)
    factor = math.exp(epsilon)
    return max(np.maximum(first - factor * second, 0).sum(), np.maximum(second - factor * first, 0).sum())


def compute_gaussian_delta(mu, epsilon):
    """Return delta of the Gaussian mechanism of sensitivity mu (Balle and Wang, ICML 2018)."""
    return norm.cdf(mu / 2 - epsilon / mu) - math.exp(epsilon) * norm.cdf(-mu / 2 - epsilon / mu)


@pytest.mark.parametrize("sites", [2, 3, 6])
@pytest.mark.parametrize("std", [2.0, 16.0])
@pytest.mark.parametrize("epsilon", [0.0, 0.5, 1.0, 3.0])
def test_the_rounded_sum_is_never_less_private_than_one_gaussian_mechanism(sites, std, epsilon):
    offsets = np.random.default_rng(sites).uniform(-0.5, 0.5, sites)
    for mu in (0.25, 1.0):
        change = mu * std * math.sqrt(sites)
        found = compute_hockey_stick(std, offsets, change, epsilon)
        assert found <= compute_gaussian_delta(mu, epsilon) + 1e-12


def test_on_a_grid_that_is_too_coarse_it_is_less_private():
    """The bound above can fail: with steps of more than a deviation the sum shows more than the Gaussian."""
    mu, std = 0.5, 0.3
    found = compute_hockey_stick(std, (0.25, 0.0), mu * std * math.sqrt(2), 5.0)
    assert found > 1000 * compute_gaussian_delta(mu, 5.0)


@pytest.mark.parametrize("sites", [2, 3, 6])
def test_no_fourier_coefficient_of_the_fractional_parts_is_larger_than_the_proof_says(sites):
    """The second argument of docs/privacy.md: Q(k) >= 1 - 1/m, and the bound on the number of vectors."""
    reach = 3 if sites < 6 else 2
    vectors = np.array([*itertools.product(range(-reach, reach + 1), repeat=sites - 1)])
    sizes = (vectors**2).sum(1) - vectors.sum(1) ** 2 / sites
    other = vectors.any(axis=1)
    assert sizes[other].min() == pytest.approx(1 - 1 / sites)
    assert (np.abs(vectors).max(1) <= np.sqrt(2 * sizes) + 1e-9).all()
    assert np.exp(-2 * (np.pi * 16) ** 2 * sizes[other]).sum() < 1e-300
    assert np.exp(-2 * (np.pi * 0.3) ** 2 * sizes[other]).sum() > 0.1  # on a coarse grid it says nothing


@pytest.mark.parametrize("sites", [2, 3, 6])
def test_the_fractional_parts_of_shares_are_uniform_given_their_sum(sites):
    """The Fourier coefficients of draws have the size that the covariance (s/u)^2 (I - J/m) gives them."""
    std, draws = 0.35, 200_000
    shares = np.random.default_rng(0).normal(0.0, std, (draws, sites))
    apart = shares - shares.mean(1, keepdims=True)  # the part that the sum does not tell
    for first in ((1,), (1, 1), (1, -1))[: 1 if sites == 2 else 3]:
        k = np.zeros(sites)
        k[: len(first)] = first
        size = (k**2).sum() - k.sum() ** 2 / sites
        found = abs(np.exp(2j * np.pi * apart @ k).mean())
        assert found == pytest.approx(np.exp(-2 * np.pi**2 * std**2 * size), abs=5 / np.sqrt(draws))
