"""One site's share of the noise: drawn anew, rounded after it, clamped only before it."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import kurtosis

from fedhealth.errors import PrivacyError
from fedhealth.privacy.mechanisms.gaussian_noise import NoiseSource
from fedhealth.privacy.mechanisms.noise_share import NoiseShare, draw_share

STD, STEP = 1.7, 2.0**-4
SHARE = NoiseShare(STD, STEP, bound=1000.0, shares=3)
MANY = 1_000_000


@pytest.fixture(scope="module")
def noise():
    """The shares of a million values that are 0.3 steps."""
    return draw_share(torch.full((MANY,), 0.3 * STEP, dtype=torch.float64), SHARE, NoiseSource())


def test_the_variance_is_that_of_the_share_and_its_rounding(noise):
    expected = (STD / STEP) ** 2 + 1 / 12
    assert abs(noise.var() / expected - 1) < 4.5 * math.sqrt(2 / MANY)
    assert abs(kurtosis(noise)) < 4.5 * math.sqrt(24 / MANY)


def test_the_tail_is_not_cut(noise):
    beyond = np.count_nonzero(np.abs(noise - 0.3) > 4 * STD / STEP)
    assert abs(beyond - 63) <= 36  # 4.5 deviations


def test_what_is_smaller_than_a_step_is_kept_on_average(noise):
    assert abs(noise.mean() - 0.3) < 4.5 * STD / STEP / math.sqrt(MANY)


def test_every_draw_is_new():
    total = torch.zeros(100)
    source = NoiseSource()
    first, second = draw_share(total, SHARE, source), draw_share(total, SHARE, source)
    assert np.count_nonzero(first != second) > 50
    assert torch.equal(total, torch.zeros(100))


def test_the_sum_is_clamped_before_the_noise_and_never_after():
    share = NoiseShare(STD, STEP, bound=2.0, shares=3)
    found = draw_share(torch.full((20_000,), 1e6), share, NoiseSource()) * STEP
    assert abs(found.mean() - 2.0) < 0.1
    assert found.max() > 2.0 + 3 * STD
    assert abs(found.std() / STD - 1) < 0.05


def test_the_shape_is_kept_and_the_values_are_whole_steps():
    found = draw_share(torch.zeros(3, 4), SHARE, NoiseSource())
    assert found.shape == (3, 4)
    assert found.dtype == np.int64


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_sum_that_is_not_finite_leaves_nothing(value):
    with pytest.raises(PrivacyError, match="not finite"):
        draw_share(torch.tensor([0.0, value]), SHARE, NoiseSource())


@pytest.mark.parametrize(("std", "step"), [(0.0, 1.0), (1.0, 0.5), (math.inf, 1.0), (1.0, 0.0), (math.nan, 0.01)])
def test_a_grid_that_is_too_coarse_for_the_noise_is_refused(std, step):
    with pytest.raises(PrivacyError):
        draw_share(torch.zeros(3), NoiseShare(std, step, 10.0, 3), NoiseSource())


def test_the_multiplier_of_the_sum_is_that_of_all_counted_shares():
    assert NoiseShare(1.5, STEP, 1.0, 4).compute_multiplier(2.0) == 1.5
