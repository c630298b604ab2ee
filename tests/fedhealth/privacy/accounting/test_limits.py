"""A refusal by the budget of a data set names both epsilons, the filter's and the plans' own."""

import re

import pytest

from fedhealth.privacy.accounting.accountant import PrivacyEvent, compute_epsilon
from fedhealth.privacy.accounting.limits import EpsilonLimits, find_lifetime_excess
from fedhealth.privacy.accounting.rdp_filter import make_rdp_filter

DELTA = 1e-6
EVENTS = [PrivacyEvent(noise_multiplier=2.0, sample_rate=0.1, steps=500)]
LIMITS = EpsilonLimits(delta=DELTA, lifetime_epsilon=2.0, lifetime_delta=DELTA)


def test_the_filters_bound_and_the_own_epsilon_are_told_apart():
    found = re.match(r"epsilon ([\d.]+) at delta 1e-6 .* the plans' own epsilon is ([\d.]+)$", message())
    assert float(found[1]) == pytest.approx(make_rdp_filter(2.0, DELTA).compute_epsilon(EVENTS), rel=1e-3)
    assert float(found[2]) == pytest.approx(compute_epsilon(EVENTS, DELTA), rel=1e-3)
    assert float(found[2]) < float(found[1])


def test_the_message_names_the_limit():
    assert "of all runs on this data set would exceed the limit of 2 at this delta" in message()


def test_events_within_the_limit_have_no_message():
    wide = EpsilonLimits(delta=DELTA, lifetime_epsilon=50.0, lifetime_delta=DELTA)
    assert find_lifetime_excess(EVENTS, wide) == ""
    assert find_lifetime_excess([], LIMITS) == ""


def message() -> str:
    return find_lifetime_excess(EVENTS, LIMITS)
