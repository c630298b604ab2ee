"""The plan binds everything, and the site's policy wins."""

import dataclasses
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhealth.errors import PrivacyError
from fedhealth.privacy.accounting.accountant import compute_epsilon
from fedhealth.privacy.accounting.plan import PlanConstraints, PrivacyRequest, bucket_count, make_plan
from fedhealth.privacy.mechanisms.clipping import Clipping
from fedhealth.site.decline_reasons import redact_reason

REQUEST = PrivacyRequest("patient", epsilon=8.0, sample_rate=0.1, steps=10, rounds=5, clipping=Clipping(0.5))


def changed(**fields):
    return dataclasses.replace(REQUEST, **fields)


def test_the_whole_run_meets_the_target():
    plan = make_plan(REQUEST, PlanConstraints(), 1000)
    assert plan.run_event.steps == 50
    assert 7.7 < plan.epsilon <= 8
    assert plan.noise_std == plan.noise_multiplier * 0.5
    assert plan.delta == 1e-6
    assert plan.expected_batch_size == 0.1 * bucket_count(1000)


def test_the_plan_is_frozen():
    plan: Any = make_plan(REQUEST, PlanConstraints(), 1000)
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.noise_multiplier = 0.1


def test_the_sites_budget_wins_over_the_runs():
    assert make_plan(REQUEST, PlanConstraints(epsilon=2.0), 1000).epsilon <= 2


def test_the_lead_may_ask_for_more_noise_and_never_for_less():
    calibrated = make_plan(REQUEST, PlanConstraints(), 1000).noise_multiplier
    assert make_plan(changed(noise_multiplier=10.0), PlanConstraints(), 1000).noise_multiplier == 10.0
    assert make_plan(changed(noise_multiplier=0.01), PlanConstraints(), 1000).noise_multiplier == calibrated
    assert make_plan(REQUEST, PlanConstraints(min_noise_multiplier=9.0), 1000).noise_multiplier == 9.0
    with pytest.raises(PrivacyError, match="below this site's minimum"):
        make_plan(changed(noise_multiplier=1.0), PlanConstraints(min_noise_multiplier=2.0), 1000)


def test_a_cohort_below_the_policy_is_refused_without_saying_its_size():
    with pytest.raises(PrivacyError, match="minimum of 50") as caught:
        make_plan(REQUEST, PlanConstraints(min_cohort=50), 37)
    assert "37" not in str(caught.value)


def test_unreachable_target_is_refused():
    with pytest.raises(PrivacyError, match="unreachable"):
        make_plan(changed(epsilon=1e-5), PlanConstraints(), 1000)


def test_client_level_is_one_release_a_round():
    plan = make_plan(changed(unit="client", delta=1e-5), PlanConstraints(), 10)
    assert (plan.sample_rate, plan.steps, plan.expected_batch_size) == (1.0, 1, 1.0)
    assert plan.run_event.steps == 5


def test_unknown_unit_is_refused():
    with pytest.raises(PrivacyError, match="unknown privacy unit"):
        make_plan(changed(unit="hospital"), PlanConstraints(), 10)


def test_record_level_takes_one_row_a_unit():
    plan = make_plan(changed(unit="record"), PlanConstraints(), 100)
    assert (plan.max_records_per_patient, plan.max_records_per_unit) == (4, 1)
    assert make_plan(REQUEST, PlanConstraints(), 100).max_records_per_unit == 4


def test_a_spare_round_is_part_of_the_calibration():
    spare = make_plan(changed(spare_rounds=1), PlanConstraints(), 1000)
    assert spare.run_event.steps == 60
    assert 7.7 < spare.epsilon <= 8
    honest = compute_epsilon([spare.round_event] * spare.rounds, spare.delta)
    assert 0.9 * spare.epsilon < honest < spare.epsilon
    full = changed(sample_rate=1.0, rounds=15, steps=1)
    without, with_spare = (make_plan(replace(full, spare_rounds=k), PlanConstraints(), 1000) for k in (0, 1))
    assert 1.01 < with_spare.noise_multiplier / without.noise_multiplier < 1.045  # about sqrt(16 / 15)


def test_delta_is_the_runs_and_never_follows_the_cohort():
    assert {make_plan(REQUEST, PlanConstraints(), size).delta for size in (30, 300, 3000)} == {1e-6}
    assert make_plan(changed(delta=1e-4), PlanConstraints(), 30).delta == 1e-4


def test_a_delta_too_large_for_the_cohort_is_refused_without_saying_its_size():
    assert make_plan(changed(delta=1e-4), PlanConstraints(), 100).delta == 1e-4
    with pytest.raises(PrivacyError, match="times the number of patients is above") as caught:
        make_plan(changed(delta=1e-4), PlanConstraints(), 137)
    assert redact_reason(caught.value.problem) == caught.value.problem
    assert "137" not in str(caught.value)


@pytest.mark.parametrize("fields", [{"max_records_per_patient": 0}, {"spare_rounds": -1}])
def test_counts_below_their_least_are_refused(fields):
    with pytest.raises(PrivacyError, match="at least"):
        make_plan(changed(**fields), PlanConstraints(), 100)


@given(st.integers(1, 10**6))
def test_buckets_are_coarse_and_never_above(count):
    assert bucket_count(count) <= count < 1.5 * bucket_count(count) + 1
    assert bucket_count(bucket_count(count)) in (bucket_count(count), bucket_count(bucket_count(count)))


def test_buckets_are_few():
    assert len({bucket_count(n) for n in range(1, 10**5)}) < 36


@pytest.mark.parametrize(
    "fields", [(0.0,), (-1.0,), (float("inf"),), (1.0, "tower"), (1.0, "flat", ("a",)), (1.0, "median")]
)
def test_clipping_that_bounds_nothing_is_refused(fields):
    with pytest.raises(PrivacyError):
        Clipping(*fields)


def test_parameters_go_to_their_longest_prefix():
    clipping = Clipping(1.0, "tower", ("towers.image", "towers.image.body", "towers.im"))
    names = ["towers.image.stem.weight", "towers.image.body.weight", "towers.images.weight", "head.bias"]
    assert clipping.assign_groups(names) == [0, 1, 3, 3]


@pytest.mark.parametrize("epsilon", [0.5, 8.0])
def test_scores_take_their_share_of_the_same_epsilon(epsilon):
    alone = make_plan(PrivacyRequest("patient", epsilon, 0.2, 10, 5, Clipping(0.5)), PlanConstraints(), 300)
    both = make_plan(
        PrivacyRequest("patient", epsilon, 0.2, 10, 5, Clipping(0.5), score_release_share=0.1), PlanConstraints(), 300
    )
    assert both.epsilon <= epsilon
    assert both.epsilon > 0.99 * epsilon
    assert 1.03 < both.noise_multiplier / alone.noise_multiplier < 1.08  # about 1 / sqrt(0.9)
    assert both.run_events == (both.run_event, both.score_release_event)
    assert alone.run_events == (alone.run_event,)


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_share_that_leaves_nothing_is_refused(share):
    with pytest.raises(PrivacyError, match="share"):
        make_plan(
            PrivacyRequest("patient", 1.0, 0.2, 10, 5, Clipping(0.5), score_release_share=share), PlanConstraints(), 300
        )
