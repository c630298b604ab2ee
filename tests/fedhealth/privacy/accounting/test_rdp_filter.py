"""The filter of fixed order: against hand values, and against settings that follow earlier results."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhealth.errors import PrivacyError
from fedhealth.privacy.accounting.accountant import PrivacyEvent, compute_epsilon
from fedhealth.privacy.accounting.rdp_filter import make_rdp_filter


def test_by_hand_at_epsilon_20_and_delta_1e_6():
    found = make_rdp_filter(20.0, 1e-6)
    assert found.order == 3
    # epsilon = rdp + log(1 - 1/3) - (log(1e-6) + log 3) / 2
    assert found.max_rdp == pytest.approx(20 - (math.log(2 / 3) - (math.log(1e-6) + math.log(3)) / 2))
    # the divergence of order 3 of a Gaussian without sampling is 3 / (2 sigma^2)
    gaussian = PrivacyEvent(2.0, 1.0, 1)
    most = math.floor(found.max_rdp / (3 / 8))
    assert found.is_within_budget([PrivacyEvent(2.0, 1.0, most)])
    assert not found.is_within_budget([PrivacyEvent(2.0, 1.0, most), gaussian])


def test_by_hand_with_sampling():
    found = make_rdp_filter(20.0, 1e-6)
    q, sigma = 0.1, 1.0
    # (1 / (a - 1)) log sum_k C(a, k) (1 - q)^(a - k) q^k exp(k (k - 1) / (2 sigma^2)), a = 3 (Mironov et al., 2019)
    moments = [math.comb(3, k) * (1 - q) ** (3 - k) * q**k * math.exp(k * (k - 1) / (2 * sigma**2)) for k in range(4)]
    step = math.log(sum(moments)) / 2
    epsilon = found.compute_epsilon([PrivacyEvent(sigma, q, 100)])
    assert epsilon == pytest.approx(100 * step + found.epsilon - found.max_rdp)


def test_the_order_follows_the_budget_only():
    orders = [make_rdp_filter(epsilon, 1e-6).order for epsilon in (1.0, 4.0, 8.0, 20.0, 100.0)]
    assert orders == sorted(orders, reverse=True)
    assert make_rdp_filter(8.0, 1e-6) is make_rdp_filter(8.0, 1e-6)


def test_nothing_costs_nothing():
    assert make_rdp_filter(1.0, 1e-6).compute_epsilon([]) == 0


EVENTS = st.builds(
    PrivacyEvent, st.sampled_from([0.7, 1.0, 2.0, 8.0]), st.sampled_from([0.05, 0.3, 1.0]), st.integers(1, 40)
)


@settings(max_examples=20, deadline=None)
@given(st.lists(EVENTS, min_size=1, max_size=12), st.sampled_from([1.0, 8.0, 20.0]))
def test_a_sequence_that_looks_at_what_is_left_never_exceeds_the_budget(wanted, epsilon):
    """The analyst chooses each event after the decision on the last one; the true epsilon stays within the budget."""
    found, accepted = make_rdp_filter(epsilon, 1e-6), []
    for event in wanted:
        while not found.is_within_budget([*accepted, event]) and event.noise_multiplier < 64:
            event = PrivacyEvent(event.noise_multiplier * 2, event.sample_rate, event.steps)
        if found.is_within_budget([*accepted, event]):
            accepted.append(event)
    assert compute_epsilon(accepted, 1e-6) <= epsilon * 1.001 if accepted else True
    total = sum(found.compute_epsilon([event]) - (found.epsilon - found.max_rdp) for event in accepted)
    assert total <= found.max_rdp + 1e-9


@pytest.mark.parametrize("budget", [(0.0, 1e-6), (math.inf, 1e-6), (1.0, 0.0), (1.0, 1.0)])
def test_a_budget_without_meaning_is_refused(budget):
    with pytest.raises(PrivacyError, match="cannot be filtered"):
        make_rdp_filter(*budget)
