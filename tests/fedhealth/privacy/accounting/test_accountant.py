"""Epsilon is that of two references, Opacus's PRV and a finer PLD, and never below the latter."""

import math
import time
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus.accountants import PRVAccountant

from fedhealth.errors import PrivacyError
from fedhealth.privacy.accounting import accountant
from fedhealth.privacy.accounting.accountant import (
    PrivacyEvent,
    calibrate_noise_multiplier,
    compute_epsilon,
    compute_epsilon_rdp,
)


def compute_fine_epsilon(history, delta):
    """Return epsilon on a grid ten times as fine as the accountant's own."""
    online = compute_epsilon_rdp([PrivacyEvent(*entry) for entry in history], delta)
    return accountant._compute_epsilon_pld(history, delta, accountant.choose_interval(online, history) / 10)


def compute_prv_epsilon(history, delta, scale):
    """Return PRV's upper bound, whose own error is 0.4 % of the scale."""
    reference = PRVAccountant()
    reference.history = list(history)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return reference.get_epsilon(delta, eps_error=0.004 * scale, delta_error=delta / 1000)


GRID = [
    *([(noise, rate, steps)] for noise in (0.8, 1.5, 4.0) for rate, steps in ((0.01, 800), (0.05, 200), (0.3, 20))),
    *([(noise, rate, steps)] for noise in (3.0, 8.0, 25.0) for rate, steps in ((0.1, 600), (0.485, 100), (0.9, 15))),
    *([(noise, rate, steps)] for noise in (1.0, 2.0) for rate, steps in ((0.001, 2000), (0.02, 50), (0.2, 8))),
    [(1.0, 0.01, 500), (2.0, 0.1, 100), (4.0, 1.0, 5)],
    [(5.36, 0.485, 88), (3.4, 1.0, 1)],
    [(12.0, 0.7, 16), (7.5, 1.0, 1)],
    [(0.7, 0.01, 300), (6.0, 0.5, 40)],
    [(2.0, 0.1, 100), (2.1, 0.1, 100), (2.2, 0.1, 100)],
    [(30.0, 1.0, 4), (40.0, 0.25, 900)],
]
DELTAS = (1e-6, 1e-5, 1e-4)


@pytest.mark.parametrize(("history", "delta"), [(each, DELTAS[place % 3]) for place, each in enumerate(GRID)])
def test_epsilon_agrees_with_both_references(history, delta):
    ours = compute_epsilon([PrivacyEvent(*entry) for entry in history], delta)
    assert ours < 20
    assert 1.0 <= ours / compute_fine_epsilon(history, delta) <= 1.01
    assert 1.0 <= compute_prv_epsilon(history, delta, ours) / ours <= 1.01
    assert compute_epsilon_rdp([PrivacyEvent(*entry) for entry in history], delta) >= ours


def test_the_grid_has_thirty_settings():
    assert len(GRID) == 30


@pytest.mark.parametrize(
    ("target", "delta", "rate", "steps", "share"),
    [
        (8.0, 1e-6, 0.485, 88, 0.05),
        (16.0, 1e-6, 0.2, 100, 0.1),
        (0.5, 1e-9, 0.001, 3000, 0.1),
        (0.05, 1e-6, 0.02, 1000, 0),
    ],
)
def test_a_calibration_takes_few_evaluations_and_little_time(target, delta, rate, steps, share, monkeypatch):
    evaluated, compute = [], accountant._compute_epsilon_pld
    monkeypatch.setattr(accountant, "_compute_epsilon_pld", lambda *call: evaluated.append(call) or compute(*call))
    for cached in (accountant._compute_epsilon_cached, accountant._compute_rdp):
        cached.cache_clear()
    started = time.process_time()
    alone = calibrate_noise_multiplier(target, delta, 1.0, 1)
    others = (PrivacyEvent(alone / math.sqrt(share), 1.0, 1),) if share else ()
    found = calibrate_noise_multiplier(target, delta, rate, steps, others)
    assert len(evaluated) <= 4
    assert time.process_time() - started <= 3
    assert 0.98 * target < compute_epsilon([PrivacyEvent(found, rate, steps), *others], delta) <= target


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
