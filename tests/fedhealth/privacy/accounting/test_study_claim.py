"""A study's total holds in the ledger whatever a lead orders in which sequence; an honest lead gets all of it."""

import tempfile
import time
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhealth.errors import PrivacyError
from fedhealth.privacy.accounting.accountant import compute_epsilon
from fedhealth.privacy.accounting.booking import find_open_booking
from fedhealth.privacy.accounting.budget import PrivacyBudget, get_plan_cost
from fedhealth.privacy.accounting.ledger import verify_ledger
from fedhealth.privacy.accounting.ledger_folder import get_ledger_path
from fedhealth.privacy.accounting.plan import PlanConstraints, PrivacyRequest, make_plan
from fedhealth.privacy.accounting.reservations import RunCost, find_active_reservations
from fedhealth.privacy.accounting.study_claim import StudyRuns, claim_share, extend_reservations, release_shares
from fedhealth.privacy.accounting.study_share import StudyShare
from fedhealth.privacy.accounting.study_total import get_study_events
from fedhealth.privacy.context import AccountingContext
from fedhealth.privacy.mechanisms.clipping import Clipping

DELTA, ROUNDS, RUNS = 1e-6, 2, 2
NAMES = ("run-a", "run-b", "run-c", "run-d")
EPSILONS = (1.0, 4.0, 5.0)
LATER = time.time() + 1e6


@cache
def plan(epsilon):
    """Return a plan with full batches, whose epsilon has a closed form."""
    request = PrivacyRequest("patient", epsilon, 1.0, 1, ROUNDS, Clipping(1.0), spare_rounds=1)
    return make_plan(request, PlanConstraints(), 300)


PRICE = get_plan_cost(plan(5.0))


class Site:
    """A hospital with one study; everything it knows is on its disk, so every call is one of a new process."""

    def __init__(self, folder, epsilon, lifetime=1000.0, name="crp", runs=RUNS):
        self.folder, self.lifetime = folder, lifetime
        self.share = StudyShare(name, runs, epsilon, DELTA, LATER)
        self.begun, self.ended, self.plans, self.rounds = [], set(), {}, dict.fromkeys(NAMES, 0)

    @property
    def budget(self):
        return PrivacyBudget("tiny", 100.0, self.lifetime)

    @property
    def entries(self):
        path = get_ledger_path(self.folder, "tiny")
        return verify_ledger(path) if path.exists() else ()

    @property
    def reserved(self):
        return {each.run: each.cost for each in find_active_reservations(self.entries, time.time())}

    @property
    def spent(self):
        return compute_epsilon(get_study_events(self.entries, self.share), DELTA)

    def claim(self, *names):
        starting = {name: plan(self.plans[name]) for name in names}
        claim_share(self.budget, self.folder, self.share, PRICE, StudyRuns(self.begun, self.ended, starting))

    def accept(self, name, epsilon):
        self.plans[name] = epsilon
        if name in self.begun or len(self.begun) < self.share.runs:
            self.claim(name)
            self.budget.check_run(plan(epsilon), self.place(name))

    def begin(self, name):
        if name not in self.begun:
            self.claim(name)
            self.begun += [name] if len(self.begun) < self.share.runs else []

    def book(self, name, fails=False):
        self.rounds[name] += 1
        chosen, place = plan(self.plans[name]), self.place(name)
        with self.budget.open_ledger(self.folder) as ledger:
            self.budget.book(ledger, chosen, place, chosen.round_event)
            booking = find_open_booking(ledger.entries, name, "train")
            kind, digest = ("fail", "") if fails else ("release", "x")
            ledger.update_booking(kind, booking, self.rounds[name], digest=digest)

    def place(self, name):
        return AccountingContext(name, "north", self.folder, self.rounds[name], ROUNDS, study=self.share)

    def approve_again(self):
        release_shares(self.folder, ())
        claim_share(self.budget, self.folder, self.share, PRICE, StudyRuns(self.begun, self.ended))


STEPS = st.one_of(
    st.tuples(st.just("accept"), st.sampled_from(NAMES), st.sampled_from(EPSILONS)),
    st.tuples(st.sampled_from(["begin", "book", "book many", "fail", "end"]), st.sampled_from(NAMES), st.none()),
    st.tuples(st.sampled_from(["claim and crash", "withdraw and approve"]), st.sampled_from(NAMES), st.none()),
)


def take_step(site, kind, name, epsilon):
    """Let the site answer one request; a refusal is an answer."""
    if kind == "accept":
        site.accept(name, epsilon)
    elif kind == "withdraw and approve":
        site.approve_again()
    elif name not in site.plans or name in site.ended:
        return
    elif kind == "begin":
        site.begin(name)
    elif kind == "claim and crash":  # before the run is recorded as begun
        site.claim(name)
    elif kind == "end":
        site.ended.add(name)
    else:  # a rogue order may even skip the first request of a run
        for _ in range(5 if kind == "book many" else 1):  # more than the plan has
            site.book(name, fails=kind == "fail")


@settings(max_examples=30, deadline=None)
@given(total=st.sampled_from([1.2, 4.5, 6.4, 7.5]), steps=st.lists(STEPS, max_size=14))
def test_whatever_a_lead_orders_the_studys_runs_never_spend_more_than_its_total(total, steps):
    with tempfile.TemporaryDirectory() as folder:
        site = Site(Path(folder), total)
        for step in steps:
            with suppress(PrivacyError):
                take_step(site, *step)
            assert site.spent <= total


@settings(max_examples=15, deadline=None)
@given(
    epsilons=st.tuples(*[st.sampled_from(EPSILONS)] * RUNS),
    order=st.permutations([name for name in NAMES[:RUNS] for _ in range(2 + ROUNDS)]),
    dead=st.lists(st.tuples(st.integers(0, RUNS * (2 + ROUNDS)), st.sampled_from(NAMES[RUNS:])), max_size=4),
    ends=st.booleans(),
)
def test_the_runs_of_an_honest_lead_are_all_admitted(epsilons, order, dead, ends):
    """Also beside runs that were accepted and never begun, as another hospital declined or the lead's machine died."""
    total = compute_epsilon(PRICE.events * RUNS, DELTA)
    with tempfile.TemporaryDirectory() as folder:
        site, taken = Site(Path(folder), total, lifetime=total * 1.3), dict.fromkeys(NAMES, 0)
        site.approve_again()
        for number, name in enumerate(order):
            for place, other in dead:
                if place == number and len(site.begun) < RUNS:
                    site.accept(other, 5.0)
            if taken[name] == 0:
                site.accept(name, epsilons[NAMES.index(name)])
            elif taken[name] == 1:
                site.begin(name)
            else:
                site.book(name)
            taken[name] += 1
            if ends and taken[name] == 2 + ROUNDS:
                site.ended.add(name)
        assert sorted(site.begun) == list(NAMES[:RUNS])
        assert all(site.rounds[name] == ROUNDS for name in NAMES[:RUNS])


def test_an_accepted_run_keeps_its_part_when_another_one_is_accepted(tmp_path):
    site = Site(tmp_path, 20.0)
    site.accept("run-a", 4.0)
    site.accept("run-b", 1.0)
    assert set(site.reserved) == {"run-a", "run-b"}
    assert site.reserved["run-a"] == get_plan_cost(plan(4.0))


def test_of_runs_that_were_never_begun_the_oldest_gives_way_and_claims_again(tmp_path):
    site = Site(tmp_path, 20.0)
    for name in NAMES[:3]:
        site.accept(name, 4.0)
    assert set(site.reserved) == {"run-b", "run-c"}
    site.begin("run-a")
    assert set(site.reserved) == {"run-a", "run-c"}
    site.begin("run-c")
    with pytest.raises(PrivacyError, match="all 2 runs of the study crp are used"):
        site.begin("run-b")
    assert site.begun == ["run-a", "run-c"]


def test_a_run_that_has_ended_keeps_nothing(tmp_path):
    site = Site(tmp_path, 20.0)
    site.accept("run-a", 4.0)
    site.ended.add("run-a")
    site.accept("run-b", 4.0)
    assert set(site.reserved) == {"run-b", "study crp run 1"}


def test_a_run_that_is_to_come_has_the_studys_price_and_not_that_of_the_first_order(tmp_path):
    site = Site(tmp_path, 20.0)
    site.accept("run-a", 1.0)
    assert site.reserved["study crp run 1"] == PRICE


def test_what_a_begun_run_may_still_spend_is_known_from_its_saved_plan(tmp_path):
    site = Site(tmp_path, 20.0)
    site.accept("run-a", 4.0)
    site.begin("run-a")
    site.book("run-a")
    site.approve_again()
    (event,) = site.reserved["run-a"].events
    assert event.steps == plan(4.0).run_event.steps - 1


def test_more_than_the_plan_is_booked_only_within_the_total(tmp_path):
    """The run's own limit allows failed rounds beyond its plan; those of the other run stay reserved."""
    site = Site(tmp_path, compute_epsilon(PRICE.events * 2, DELTA))
    for name in NAMES[:2]:
        site.accept(name, 5.0)
        site.begin(name)
    for _ in range(plan(5.0).run_event.steps):
        site.book("run-a", fails=True)
    with pytest.raises(PrivacyError, match="the runs of the study crp would spend"):
        site.book("run-a")
    for _ in range(ROUNDS):
        site.book("run-b")
    assert site.spent <= site.share.epsilon


def test_events_that_a_restored_machine_has_lost_count_for_every_study(tmp_path):
    site = Site(tmp_path, 6.0, runs=1)
    with site.budget.open_ledger(tmp_path) as ledger:
        ledger.record_lost_event("forgotten", RunCost("patient", plan(4.0).run_events), "lost")
    with pytest.raises(PrivacyError, match="would spend"):
        site.accept("run-a", 5.0)


def test_a_study_that_does_not_fit_into_the_life_budget_is_not_reserved(tmp_path):
    first, second = Site(tmp_path, 20.0, 9.0), Site(tmp_path, 20.0, 9.0, "other")
    first.approve_again()
    with pytest.raises(PrivacyError, match="the share of the study other does not fit into the privacy budget of tiny"):
        claim_share(second.budget, tmp_path, second.share, PRICE, StudyRuns())
    assert set(second.reserved) == {"study crp run 0", "study crp run 1"}


def test_a_share_is_given_back_unless_an_approval_holds_it(tmp_path):
    site = Site(tmp_path, 20.0)
    site.approve_again()
    release_shares(tmp_path, {("tiny", "study crp")})
    assert site.reserved
    release_shares(tmp_path, {("another", "study crp")})
    assert not site.reserved


def test_a_later_last_day_keeps_the_amounts(tmp_path):
    site = Site(tmp_path, 20.0)
    site.accept("run-a", 4.0)
    site.begin("run-a")
    site.book("run-a")
    before, later = site.reserved, StudyShare("crp", RUNS, 20.0, DELTA, LATER + 1e6)
    extend_reservations(tmp_path, "tiny", later)
    assert site.reserved == before
    assert {each.expires_at for each in find_active_reservations(site.entries, time.time())} == {later.expires_at}


def test_one_total_is_not_stated_for_two_units(tmp_path):
    """A version that protects studies had booked; one that protects patients would count its events as theirs."""
    site = Site(tmp_path, 100.0)
    site.accept("run-a", 1.0)
    record = replace(PRICE, unit="record", max_records_per_patient=4)
    with pytest.raises(PrivacyError, match=r"would protect different units \(patient, record\)"):
        claim_share(site.budget, tmp_path, site.share, record, StudyRuns(["run-a"]))
