"""The learning rate over the rounds: one rule for the hospitals and for the lead's optimizer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhealth.config.compose import compose_config, resolve_config
from fedhealth.config.schema import Schedule
from fedhealth.training.schedule import compute_rate_factor


@given(st.sampled_from(Schedule), st.integers(0, 20), st.integers(1, 40))
def test_the_factor_rises_during_warm_up_and_then_falls_but_never_to_zero(schedule, warmup, rounds):
    warmup = min(warmup, rounds)
    factors = [compute_rate_factor(schedule, warmup, rounds, number) for number in range(1, rounds + 1)]
    assert all(0 < factor <= 1 for factor in factors)
    assert factors[:warmup] == sorted(factors[:warmup])
    assert factors[warmup:] == sorted(factors[warmup:], reverse=True)
    if warmup < rounds:
        assert factors[warmup] == 1


@pytest.mark.parametrize(("schedule", "half"), [("constant", 1.0), ("linear", 0.5), ("cosine", 0.5)])
def test_half_of_the_way(schedule, half):
    assert compute_rate_factor(Schedule(schedule), 0, 10, 6) == pytest.approx(half)


def test_the_leads_optimizer_follows_the_same_settings():
    overrides = ["data.root=x", "method=fedsgd", "training.schedule=cosine", "training.warmup=2"]
    plain = resolve_config(compose_config(overrides))["strategy"]["server_optimizer"]
    assert (plain["schedule"], plain["warmup"]) == ("cosine", 2)
