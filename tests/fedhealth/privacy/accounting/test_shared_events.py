"""Two numbers for shared noise: epsilon, and what it is if everybody else colludes."""

import json
import math
from dataclasses import replace

import pytest
from dp_accounting import dp_event
from dp_accounting.pld import PLDAccountant

from fedhealth.errors import PrivacyError
from fedhealth.privacy.accounting.accountant import (
    PrivacyEvent,
    calibrate_noise_multiplier,
    compute_epsilon,
    get_local_events,
)
from fedhealth.privacy.accounting.budget import PrivacyBudget
from fedhealth.privacy.accounting.ledger import Ledger, verify_ledger
from fedhealth.privacy.accounting.ledger_entry import compute_spent_epsilon, get_patient_events, parse_entry
from fedhealth.privacy.accounting.ledger_record import build_ledger_record, dump_records, load_records
from fedhealth.privacy.accounting.limits import BudgetExceededError, EpsilonLimits
from fedhealth.privacy.accounting.plan import PlanConstraints, PrivacyRequest, make_plan
from fedhealth.privacy.accounting.reservations import RunCost
from fedhealth.privacy.accounting.spending import compute_dataset_spending, iter_run_spending
from fedhealth.privacy.accounting.units import convert_to_patient
from fedhealth.privacy.context import AccountingContext
from fedhealth.privacy.mechanisms.clipping import Clipping

DELTA = 1e-5
REQUEST = PrivacyRequest("patient", 8.0, 0.1, 1, 50, Clipping(1.0), delta=DELTA, shares=3)
EVENT = PrivacyEvent(4.0, 0.5, 1, shares=4)


@pytest.mark.parametrize(
    ("epsilon", "shares", "local"),
    [
        (0.5, 2, 0.73),
        (1, 2, 1.46),
        (1, 3, 1.83),
        (1, 4, 2.15),
        (1, 7, 2.95),
        (2, 12, 8.41),
        (8, 3, 15.9),
        (8, 18, 54.3),
    ],
)
def test_the_local_epsilon_is_that_of_the_specification(epsilon, shares, local):
    """50 steps without sampling at delta 1e-5, computed there by another program."""
    sigma = calibrate_noise_multiplier(epsilon, DELTA, 1.0, 50)
    event = PrivacyEvent(sigma, 1.0, 50, shares)
    assert compute_epsilon([event], DELTA) == pytest.approx(epsilon, rel=0.005)
    assert compute_epsilon(get_local_events([event]), DELTA) == pytest.approx(local, rel=0.02)


@pytest.mark.parametrize(("rate", "sigma", "shares"), [(0.1, 1.2, 3), (0.485, 5.36, 3), (0.485, 5.36, 2)])
def test_both_numbers_are_those_of_another_accountant(rate, sigma, shares):
    event = PrivacyEvent(sigma, rate, 200, shares)
    for found, noise in ((event, sigma), (event.local, sigma / math.sqrt(shares))):
        reference = PLDAccountant()
        reference.compose(dp_event.PoissonSampledDpEvent(rate, dp_event.GaussianDpEvent(noise)), 200)
        assert compute_epsilon([found], 1e-6) == pytest.approx(reference.get_epsilon(1e-6), rel=0.01)


def test_an_event_without_shares_is_its_own_local_event():
    alone = PrivacyEvent(2.0, 0.5, 3)
    assert alone.local is alone
    assert EVENT.local == PrivacyEvent(2.0, 0.5, 1)
    with pytest.raises(PrivacyError):
        PrivacyEvent(2.0, 0.5, 3, shares=0)


@pytest.mark.parametrize("unit", ["patient", "record", "client"])
def test_a_converted_event_keeps_its_shares(unit):
    found = convert_to_patient(EVENT, unit, 2)
    assert found.shares == 4
    assert found.local.noise_multiplier == pytest.approx(found.noise_multiplier / 2)


def test_the_plan_meets_both_limits_with_the_noise_of_the_stricter():
    loose = make_plan(REQUEST, PlanConstraints(local_epsilon=100.0), 1000)
    strict = make_plan(REQUEST, PlanConstraints(local_epsilon=4.0), 1000)
    assert loose.noise_multiplier == make_plan(replace(REQUEST, shares=1), PlanConstraints(), 1000).noise_multiplier
    assert loose.epsilon <= 8 < loose.local_epsilon
    assert 3.9 < strict.local_epsilon <= 4.0
    assert strict.noise_multiplier > loose.noise_multiplier
    assert strict.round_event.shares == strict.run_event.shares == 3


@pytest.mark.parametrize("limits", [(8.0, 100.0), (8.0, 4.0), (2.0, 3.0)])
@pytest.mark.parametrize(("rate", "rounds"), [(0.485, 200), (1.0, 25)])
def test_scores_and_training_together_meet_both_limits_by_another_accountant(limits, rate, rounds):
    """The release of the scores shares its noise, so it loses as much as training does if all others collude."""
    request = replace(REQUEST, sample_rate=rate, rounds=rounds, score_release_share=0.1)
    plan = make_plan(request, PlanConstraints(limits[0], local_epsilon=limits[1]), 1000)
    scores = plan.score_release_event
    assert scores.shares == plan.round_event.shares == 3
    for found, limit, root in ((plan.epsilon, limits[0], 1.0), (plan.local_epsilon, limits[1], math.sqrt(3))):
        reference = PLDAccountant()
        step = dp_event.GaussianDpEvent(plan.noise_multiplier / root)
        reference.compose(dp_event.PoissonSampledDpEvent(rate, step), rounds)
        reference.compose(dp_event.GaussianDpEvent(scores.noise_multiplier / root))
        assert found == pytest.approx(reference.get_epsilon(DELTA), rel=0.01)
        assert reference.get_epsilon(DELTA) <= limit * 1.002
    assert plan.epsilon > 0.99 * limits[0] or plan.local_epsilon > 0.95 * limits[1]  # no more noise than is needed


def test_without_shares_the_local_limit_asks_for_nothing():
    alone = make_plan(replace(REQUEST, shares=1), PlanConstraints(local_epsilon=0.1), 1000)
    assert alone.local_epsilon == alone.epsilon > 7


LIMITS = EpsilonLimits(DELTA, 8.0, 20.0)


def fill_until_declined(path, limits, event, unit="patient"):
    """Book the event until a limit declines it; return how often it was booked."""
    with Ledger.open(path) as ledger:
        for number in range(100):
            try:
                ledger.book("run", number + 1, unit, event, limits)
            except BudgetExceededError as fault:
                return number, str(fault)
    raise AssertionError("no limit declined")


@pytest.mark.parametrize("field", ["run_local_epsilon", "lifetime_local_epsilon"])
def test_both_local_limits_hold_over_all_rounds(tmp_path, field):
    limit = 2.0
    booked, reason = fill_until_declined(tmp_path / "a.jsonl", replace(LIMITS, **{field: limit}), EVENT)
    assert "if all other sites collude" in reason
    spent = [replace(EVENT, steps=booked)]
    assert 0 < compute_epsilon(get_local_events(spent), DELTA) <= limit
    assert compute_epsilon(spent, DELTA) < limit / 1.5


def test_a_run_with_local_noise_enters_both_totals(tmp_path):
    path = tmp_path / "a.jsonl"
    with Ledger.open(path) as ledger:
        ledger.book("one", 1, "patient", EVENT, LIMITS)
        ledger.book("two", 1, "patient", PrivacyEvent(3.0, 1.0, 1), LIMITS)
    events = get_patient_events(verify_ledger(path))
    assert [event.noise_multiplier for event in get_local_events(events)] == [2.0, 3.0]
    assert compute_spent_epsilon(verify_ledger(path), DELTA) < compute_epsilon(get_local_events(events), DELTA)


def test_what_is_shown_has_both_numbers(tmp_path):
    path = tmp_path / "north" / "privacy" / "a.jsonl"
    with Ledger.open(path) as ledger:
        ledger.book("one", 1, "patient", PrivacyEvent(3.0, 1.0, 1), LIMITS)
        assert compute_dataset_spending("north", path).local_epsilon is None
        ledger.book("two", 1, "patient", EVENT, LIMITS)
    total = compute_dataset_spending("north", path)
    assert total.local_epsilon is not None
    assert total.local_epsilon > total.epsilon
    one, two = iter_run_spending(tmp_path / "north")
    assert (one.shares, two.shares) == (1, 4)
    assert one.local_epsilon == one.epsilon
    assert two.local_epsilon > two.epsilon


def test_a_line_of_an_older_ledger_has_no_shares(tmp_path):
    path = tmp_path / "a.jsonl"
    with Ledger.open(path) as ledger:
        ledger.book("one", 1, "patient", PrivacyEvent(3.0, 1.0, 1), LIMITS)
    fields = json.loads(path.read_text().splitlines()[0])["entry"]
    del fields["event"]["shares"]
    assert parse_entry(fields).mechanism == PrivacyEvent(3.0, 1.0, 1)


def test_a_reservation_and_a_statement_keep_the_shares(tmp_path):
    path = tmp_path / "north" / "privacy" / "a.jsonl"
    cost = RunCost("patient", (replace(EVENT, steps=3), PrivacyEvent(4.0, 0.5, 2)))
    with Ledger.open(path) as ledger:
        ledger.reserve("sweep", {"one": cost}, 1e12, LIMITS)
        assert {event.shares for each in ledger.get_reservations() for event in each.cost.events} == {1, 4}
        ledger.book("one", 1, "patient", EVENT, LIMITS)
        (left,) = ledger.get_reservations()
        assert {(event.shares, event.steps) for event in left.cost.events} == {(1, 2), (4, 2)}
        local = replace(LIMITS, lifetime_local_epsilon=0.5)
        with pytest.raises(BudgetExceededError, match="collude"):
            ledger.reserve("other", {"two": cost}, 1e12, local)
    assert load_records(dump_records([build_ledger_record(path)]))[0].runs[0].cost.events == (EVENT,)


def test_the_budget_declines_a_run_that_would_exceed_the_local_limit_for_life(tmp_path):
    budget = PrivacyBudget("a", 8.0, 20.0, local_epsilon=30.0, lifetime_local_epsilon=5.0)
    plan = budget.make_plan(REQUEST, 1000)
    with pytest.raises(PrivacyError, match="would exceed the privacy budget"):
        budget.check_run(plan, AccountingContext("run", "north", tmp_path, 0, 50, shares=3))
    generous = replace(budget, lifetime_local_epsilon=60.0)
    generous.check_run(plan, AccountingContext("run", "north", tmp_path, 0, 50, shares=3))
