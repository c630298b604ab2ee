"""The checks pass what is right at the level that they state, and fail what is a little wrong."""

import numpy as np
import pytest

from fedhealth.privacy.auditing.release_checks import (
    CERTAIN,
    LEVEL,
    AuditCheck,
    check_contribution,
    check_equal_rates,
    check_fresh_draws,
    check_sampling_law,
    judge_checks,
    judge_measurements,
)


def draw(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


def test_the_level_is_divided_among_the_checks():
    checks = [AuditCheck("a", LEVEL / 3, ""), AuditCheck("b", LEVEL / 5, ""), AuditCheck("c", 1.0, "")]
    assert [each.passed for each in judge_checks(checks)] == [True, False, True]


def judge_in_turn(*measured):
    """Return which names fail, and how many of the measurements were made."""
    left = list(measured)
    found = judge_measurements(lambda: [AuditCheck(name, p, "") for name, p in left.pop(0).items()])
    return {each.name for each in found if not each.passed}, len(measured) - len(left)


def test_a_failure_by_chance_is_measured_again_and_one_that_comes_back_counts():
    rare = LEVEL / 4
    assert judge_in_turn({"a": 0.5, "b": 0.2}, {}) == (set(), 1)
    assert judge_in_turn({"a": rare, "b": 0.2}, {"a": 0.3, "b": 0.2}) == (set(), 2)
    assert judge_in_turn({"a": rare, "b": 0.2}, {"a": 0.009, "b": 0.2}) == ({"a"}, 2)
    assert judge_in_turn({"a": rare, "b": rare}, {"a": 0.009, "b": 0.004}) == ({"b"}, 2)  # two share the level


def test_what_chance_cannot_explain_fails_at_once():
    assert judge_in_turn({"a": CERTAIN / 2, "b": LEVEL / 4}, {}) == ({"a", "b"}, 1)
    assert judge_in_turn({"a": 0.0}, {}) == ({"a"}, 1)
    assert judge_in_turn({"a": LEVEL / 4, "b": 1.0}, {"a": 1.0, "b": 0.0}) == ({"b"}, 2)
    assert judge_in_turn({"a": LEVEL / 4, "b": 1.0}, {"a": 1.0, "b": LEVEL / 4}) == ({"b"}, 2)  # a fault that moves
    assert judge_in_turn({"a": LEVEL / 4}, {"b": 1.0}) == ({"a"}, 2)  # a check that is not made again has failed


def test_right_code_fails_once_in_100_000_audits_and_a_small_fault_is_found():
    random = np.random.default_rng(0)

    def count_failures(audits, power):
        measure = lambda: [AuditCheck(str(k), float(p), "") for k, p in enumerate(random.random(50) ** power)]  # noqa: E731
        return sum(not all(each.passed for each in judge_measurements(measure)) for _ in range(audits))

    assert count_failures(5_000, 1) == 0  # at `LEVEL` alone: five
    assert count_failures(200, 12) == 200


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


def test_a_sum_is_compared_relative_to_all_that_is_in_it():
    planned, noise = draw(0, 50), 1e-4 * draw(1, 50)
    off = planned + 2e-2 * draw(2, 50)
    assert check_contribution("x", off + noise, planned, 1e-4).p_value < 1e-6
    assert check_contribution("x", off + noise, planned, 1e-4, scale=100.0).p_value > 1e-3


def test_the_same_patients_in_two_draws_are_found():
    random = np.random.default_rng(0)
    draws = [set(np.flatnonzero(random.random(40) < 0.25)) for _ in range(48)]
    assert check_fresh_draws("x", [*zip(draws[:24], draws[24:], strict=True)], 40, 0.25).p_value > 1e-3
    assert check_fresh_draws("x", [*zip(draws, draws, strict=True)], 40, 0.25).p_value < 1e-6


def test_a_patient_that_is_drawn_more_often_is_found():
    random = np.random.default_rng(0)
    counts = random.binomial(48, 0.25, 40)
    assert check_equal_rates(counts, 48, 0.25).p_value > 1e-3
    assert check_equal_rates([*counts[:-1], 48], 48, 0.25).p_value < 1e-6
    assert check_equal_rates([12] * 40, 48, 0.25).p_value < 1e-6
