"""The checks pass what is right at the level that they state, and fail what is a little wrong."""

import numpy as np
import pytest

from fedhealth.privacy.auditing.release_checks import (
    LEVEL,
    AuditCheck,
    check_contribution,
    check_independence,
    check_noise_size,
    check_sampling_law,
    judge_checks,
)


def draw(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


def test_the_level_is_divided_among_the_checks():
    checks = [AuditCheck("a", LEVEL / 3, ""), AuditCheck("b", LEVEL / 5, ""), AuditCheck("c", 1.0, "")]
    assert [each.passed for each in judge_checks(checks)] == [True, False, True]


@pytest.mark.parametrize(("scale", "size"), [(1.0, 1), (1.0, 5000), (1.1, 5000), (0.5, 20), (0.0, 1)])
def test_the_size_of_the_noise(scale, size):
    sums = 7.0 + 2.0 * scale * draw(0, 8, size)
    p_value = check_noise_size("x", [sums, sums + draw(1, 1, size)], 2.0).p_value
    assert (p_value > 1e-3) is (scale == 1.0)


def test_p_values_of_right_noise_are_uniform():
    found = [check_noise_size("x", [draw(seed, 6, 30)], 1.0).p_value for seed in range(400)]
    assert 0.01 < np.mean(np.array(found) < 0.05) < 0.1


def test_dependence_is_found():
    one = draw(0, 4000)
    assert check_independence("x", one, draw(1, 4000)).p_value > 1e-3
    assert check_independence("x", one, 0.1 * one + draw(1, 4000)).p_value < 1e-6
    assert check_independence("x", one[:40], one[:40]).p_value < 1e-6
    assert check_independence("x", np.zeros(40), np.zeros(40)).p_value < 1e-6


def test_the_law_of_the_sampler():
    right = np.random.default_rng(0).binomial(40, 0.25, 24).tolist()
    assert min(each.p_value for each in check_sampling_law(right, 40, 0.25)) > 1e-3
    doubled = np.random.default_rng(0).binomial(40, 0.5, 24).tolist()
    assert check_sampling_law(doubled, 40, 0.25)[0].p_value < 1e-6
    assert check_sampling_law([10] * 24, 40, 0.25)[1].p_value < 1e-6
    assert [each.p_value for each in check_sampling_law([40] * 24, 40, 1.0)] == [1.0]
    assert check_sampling_law([39, *[40] * 23], 40, 1.0)[0].p_value == 0.0


@pytest.mark.parametrize(("factor", "passes"), [(1.0, True), (1.59, False), (0.5, False)])
def test_a_contribution(factor, passes):
    planned = draw(0, 50) / np.sqrt(50)
    noise = 0.02 * draw(1, 50)
    assert (check_contribution("x", factor * planned + noise, planned, 0.02).p_value > 1e-3) is passes
    sideways = planned + np.roll(planned, 7) * 0.5
    assert check_contribution("x", sideways + noise, planned, 0.02).p_value < 1e-6
