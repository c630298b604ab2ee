"""The checks of noise pass what a right mechanism draws, and fail what differs a little."""

import numpy as np
import pytest
import torch

from fedhealth.privacy.auditing.noise_checks import (
    check_independence,
    check_matrix,
    check_noise_size,
    check_single_use,
    check_tails,
    check_uniqueness,
)
from fedhealth.privacy.mechanisms.gaussian_noise import NoiseSource

SIZE = 40_000


def draw(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


def find_lowest(checks):
    return min(each.p_value for each in checks)


@pytest.mark.parametrize(("scale", "size"), [(1.0, 1), (1.0, 5000), (1.1, 5000), (0.5, 20), (0.0, 1)])
def test_the_size_of_the_noise(scale, size):
    sums = 7.0 + 2.0 * scale * draw(0, 8, size)
    p_value = check_noise_size("x", [sums, sums + draw(1, 1, size)], 2.0).p_value
    assert (p_value > 1e-3) is (scale == 1.0)


def test_noise_alone_has_no_mean():
    noise = draw(0, 1, 5000)
    assert check_noise_size("x", [noise], 1.0, known_mean=True).p_value > 1e-3
    assert check_noise_size("x", [noise + 0.5], 1.0, known_mean=True).p_value < 1e-6
    assert check_noise_size("x", [noise[:0]], 1.0, known_mean=True).p_value == 0.0


def test_p_values_of_right_noise_are_uniform():
    found = [check_noise_size("x", [draw(seed, 6, 30)], 1.0).p_value for seed in range(400)]
    assert 0.01 < np.mean(np.array(found) < 0.05) < 0.1


def test_dependence_is_found():
    one = draw(0, 4000)
    assert check_independence("x", one, draw(1, 4000)).p_value > 1e-3
    assert check_independence("x", one, 0.1 * one + draw(1, 4000)).p_value < 1e-6
    assert check_independence("x", one[:40], one[:40]).p_value < 1e-6
    assert check_independence("x", np.zeros(40), np.zeros(40)).p_value < 1e-6


@pytest.mark.parametrize("std", [1.0, 1.9])  # the coarsest and the finest grid
def test_real_noise_has_the_tails_of_a_gaussian(std):
    noise = NoiseSource().add_(torch.zeros(200_000), std).double().numpy() / std
    assert find_lowest(check_tails("x", noise)) > 1e-6


@pytest.mark.parametrize(
    "noise",
    [
        np.random.default_rng(0).uniform(-(3**0.5), 3**0.5, SIZE),
        draw(0, SIZE).clip(-2, 2),
        draw(0, SIZE).clip(-3, 3),
        np.random.default_rng(0).laplace(0, 0.5**0.5, SIZE),
        draw(0, SIZE) * np.where(np.arange(SIZE) % 2, 1.2, 0.748),  # right on average
        np.zeros(SIZE),
    ],
    ids=["uniform", "cut at 2", "cut at 3", "laplace", "two sizes", "none"],
)
@pytest.mark.filterwarnings("ignore:Precision loss:RuntimeWarning")
def test_other_laws_are_found(noise):
    assert not find_lowest(check_tails("x", noise)) >= 1e-5  # also not a number


def test_right_tails_are_rarely_blamed():
    found = [find_lowest(check_tails("x", draw(seed, 20_000))) for seed in range(200)]
    assert np.mean(np.array(found) < 0.05) < 0.15


def test_noise_that_is_used_twice_is_found():
    one, other = draw(0, 500), draw(1, 300)
    assert check_single_use([one, other]).p_value == 1.0
    for repeated in (one[100:120], -one[100:120]):
        assert check_single_use([one, np.concatenate([other, repeated])]).p_value == 0.0
    assert check_single_use([np.tile(draw(2, 8), 10)]).p_value == 0.0  # a row of a matrix, in all its rows
    assert check_single_use([one[:3]]).p_value == 1.0


def test_rounded_noise_is_not_taken_for_used_noise():
    noise = NoiseSource().add_(torch.zeros(1 << 17), 1.0).double().numpy()
    assert check_single_use([noise]).p_value == 1.0


def test_what_rows_or_columns_share_is_found():
    noise = draw(0, 30, 20)
    assert find_lowest(check_matrix("x", noise.ravel(), 20)) > 1e-3
    assert find_lowest(check_matrix("x", (noise + draw(1, 1, 20)).ravel(), 20)) < 1e-6
    assert find_lowest(check_matrix("x", (noise + draw(1, 30, 1)).ravel(), 20)) < 1e-6
    assert not list(check_matrix("x", draw(0, 24), 12))  # too few to tell


def test_what_fits_steps_or_tensors_share_is_found():
    fits = [{"a": draw(0, 8, 50), "b": draw(1, 8, 40)}, {"a": draw(2, 8, 50), "b": draw(3, 8, 40)}]
    assert find_lowest(check_uniqueness(fits)) > 1e-3
    assert find_lowest(check_uniqueness([fits[0], fits[0]])) < 1e-6
    assert find_lowest(check_uniqueness([fits[0] | {"b": fits[0]["a"][:, :40]}, fits[1]])) < 1e-6
    assert find_lowest(check_uniqueness([{n: np.repeat(v[:4], 2, 0) for n, v in fits[0].items()}, fits[1]])) < 1e-6
