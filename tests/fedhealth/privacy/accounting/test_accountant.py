"""Epsilon agrees with an independent accountant and is never below it."""

import math

import pytest
from dp_accounting import dp_event, pld
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhealth.errors import PrivacyError
from fedhealth.privacy.accounting.accountant import (
    PrivacyEvent,
    calibrate_noise_multiplier,
    compute_epsilon,
    compute_epsilon_rdp,
)


def by_pld(events, delta):
    accountant = pld.PLDAccountant(value_discretization_interval=1e-4)
    for event in events:
        step = dp_event.PoissonSampledDpEvent(event.sample_rate, dp_event.GaussianDpEvent(event.noise_multiplier))
        accountant.compose(dp_event.SelfComposedDpEvent(step, event.steps))
    return accountant.get_epsilon(delta)


GRID = [
    ([PrivacyEvent(0.7, 0.01, 500)], 1e-5),
    ([PrivacyEvent(1.0, 0.01, 1000)], 1e-5),
    ([PrivacyEvent(1.0, 0.05, 300)], 1e-4),
    ([PrivacyEvent(2.0, 0.1, 1000)], 1e-4),
    ([PrivacyEvent(5.0, 0.2, 400)], 1e-5),
    ([PrivacyEvent(10.0, 0.05, 1000)], 1e-5),
    ([PrivacyEvent(4.0, 1.0, 20)], 1e-4),
    ([PrivacyEvent(30.0, 0.1, 500)], 1e-4),
    ([PrivacyEvent(1.0, 0.001, 200)], 1e-6),
    ([PrivacyEvent(1.0, 0.01, 500), PrivacyEvent(2.0, 0.1, 100), PrivacyEvent(4.0, 1.0, 5)], 1e-5),
]


@pytest.mark.parametrize(("events", "delta"), GRID)
def test_within_two_percent_of_pld_and_never_below(events, delta):
    ours, reference = compute_epsilon(events, delta), by_pld(events, delta)
    assert reference <= ours <= 1.02 * reference
    assert compute_epsilon_rdp(events, delta) >= ours


@settings(max_examples=8, deadline=None)
@given(
    st.lists(
        st.builds(
            PrivacyEvent, st.sampled_from([0.8, 1.5, 4.0]), st.sampled_from([0.01, 0.1, 1.0]), st.integers(1, 50)
        ),
        min_size=1,
        max_size=4,
    )
)
def test_more_events_never_cost_less_and_order_does_not_matter(events):
    whole = compute_epsilon(events, 1e-5)
    assert compute_epsilon(events[:-1], 1e-5) <= whole * 1.01
    assert compute_epsilon(events[::-1], 1e-5) == pytest.approx(whole, rel=5e-3)


def test_nothing_costs_nothing():
    assert compute_epsilon([], 1e-5) == 0.0
    assert compute_epsilon_rdp([], 1e-5) == 0.0


def test_hopeless_noise_still_gets_a_finite_number():
    assert 100 < compute_epsilon([PrivacyEvent(0.1, 0.5, 100)], 1e-5) < math.inf


@pytest.mark.parametrize(
    ("target", "rate", "steps"), [(8.0, 0.1, 300), (1.0, 0.1, 300), (0.1, 0.05, 50), (3.0, 1.0, 10)]
)
def test_calibration_meets_the_target_with_little_to_spare(target, rate, steps):
    noise_multiplier = calibrate_noise_multiplier(target, 1e-4, rate, steps)
    assert 0.97 * target < compute_epsilon([PrivacyEvent(noise_multiplier, rate, steps)], 1e-4) <= target


def test_unreachable_target_is_refused():
    with pytest.raises(PrivacyError, match="unreachable"):
        calibrate_noise_multiplier(1e-4, 1e-9, 1.0, 10_000)


@pytest.mark.parametrize(
    "fields", [(0.0, 0.1, 1), (-1.0, 0.1, 1), (math.inf, 0.1, 1), (1.0, 0.0, 1), (1.0, 1.1, 1), (1.0, 0.1, 0)]
)
def test_an_event_that_cannot_be_accounted_is_refused(fields):
    with pytest.raises(PrivacyError, match="cannot be accounted"):
        PrivacyEvent(*fields)


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5])
def test_delta_must_be_a_probability(delta):
    with pytest.raises(PrivacyError, match="between 0 and 1"):
        compute_epsilon([PrivacyEvent(1.0, 0.1, 1)], delta)
