"""A hospital asked to reserve a sweep's budget: before its first run, for a limited time, or with a reason."""

import re
import time

import pytest

from fedhealth.config.compose import compose_config, compute_config_digest
from fedhealth.consortium.signed_job import SignedJob
from fedhealth.privacy.accounting.ledger import verify_ledger
from fedhealth.privacy.accounting.ledger_folder import get_ledger_path
from fedhealth.privacy.accounting.rdp_filter import make_rdp_filter
from fedhealth.privacy.accounting.reservations import find_active_reservations
from fedhealth.protocol.budget_request import BudgetRequest, PlannedRun
from fedhealth.protocol.messages import HANDSHAKE, TRAIN, Acceptance
from tests.clients.member import Member

POLICY = """\
name: charite
lead: lead.example:9092
data:
  tiny: {{dataset: tiny-2026, root: {root}, manifest: manifest.csv, cache: {cache}}}
limits: {{unattended_studies: true, min_patients: 3, epsilon: 2, lifetime_epsilon: {life}, min_noise_multiplier: 0,
  secure_aggregation: false, hours: 24,
  units: [patient], records: [acceptance, update, statistics]}}
"""
SWEEP, RUNS = "sweep1234567", ("firstrun1234", "secondrun123", "thirdrun1234")
HOUR = 3600.0


class Hospital(Member):
    """A member's home, and what the lead may send to it."""

    def __init__(self, tmp_path, data, overrides):
        super().__init__(tmp_path, data, overrides)
        self.overrides.append("privacy=patient")
        self.overrides += ["privacy.epsilon=2", "privacy.delta=1e-4"]
        self.allow(50)

    def allow(self, life):
        self.home.policy.write_text(POLICY.format(root=self.root / "north", cache=self.cache, life=life))

    def find_life_budget(self, runs):
        """Return the smallest life budget, within one per cent, that fits so many runs like those reserved."""
        events, budget = [held.cost.patient_events for held in self.kept.values()][:runs], 1.0
        while not make_rdp_filter(budget, 1e-6).is_within_budget([event for each in events for event in each]):
            budget *= 1.01
        return budget

    def plan(self, run, *overrides):
        """A run with our overrides, unless others replace them."""
        keys = {override.partition("=")[0] for override in overrides}
        chosen = (*(each for each in self.overrides if each.partition("=")[0] not in keys), *overrides)
        return PlannedRun(run, chosen, compute_config_digest(compose_config([*chosen, f"data.root={self.root}"])))

    def sign_job(self, run, budget_request=None, hours=24.0):
        planned, now = self.plan(run), int(time.time())
        ends = now + int(hours * HOUR)
        return SignedJob(
            "chest", run, planned.overrides, planned.digest, "0" * 64, "0" * 64, now, ends, "0" * 32, budget_request
        )

    def ask(self, job, kind=HANDSHAKE):
        return self.send(job, kind, job.run)

    def reserve(self, *runs, epsilon=100.0, hours=24.0):
        """Ask for a reservation as the lead does before a sweep."""
        planned = tuple(run if isinstance(run, PlannedRun) else self.plan(run) for run in runs)
        job = self.sign_job("askedfor1234", BudgetRequest(SWEEP, epsilon, planned), hours)
        return Acceptance.parse(self.ask(job).content)

    def handshake(self, run):
        return Acceptance.parse(self.ask(self.sign_job(run)).content).reasons

    @property
    def kept(self):
        path = get_ledger_path(self.home.state, "tiny-2026")
        return (
            {held.run: held for held in find_active_reservations(verify_ledger(path), time.time())}
            if path.is_file()
            else {}
        )


@pytest.fixture(name="hospital")
def hospital_(tmp_path, good_hospitals, tiny_overrides):
    return Hospital(tmp_path, good_hospitals, tiny_overrides(good_hospitals))


def test_what_all_runs_will_spend_is_reserved_for_a_limited_time(hospital):
    answered = hospital.reserve(*RUNS[:2], epsilon=4.0)
    assert answered.reasons == ()
    assert 2 < answered.reserved <= 4
    assert set(hospital.kept) == set(RUNS[:2])
    latest = time.time() + 24 * HOUR  # the policy's limit
    assert all(latest - 60 < held.expires_at <= latest for held in hospital.kept.values())
    assert hospital.reserve(*RUNS[:2], hours=1.0).reasons == ()
    assert all(held.expires_at <= time.time() + HOUR for held in hospital.kept.values())


def test_others_are_declined_what_the_sweep_has_reserved_until_it_gives_it_back(hospital):
    assert hospital.reserve(*RUNS).reasons == ()
    hospital.allow(hospital.find_life_budget(2))
    assert hospital.reserve(*RUNS[:2]).reasons == ()
    refusal = "the run would exceed the privacy budget of tiny-2026, part of which is reserved for a sweep"
    assert hospital.handshake("somebodyelse") == (refusal,)
    assert hospital.handshake(RUNS[1]) == ()
    assert hospital.reserve().reasons == ()
    assert hospital.kept == {}
    assert hospital.handshake("somebodyelse") == ()


def test_a_sweep_beyond_the_budget_is_declined_and_nothing_stays_reserved(hospital):
    assert hospital.reserve(*RUNS).reasons == ()
    hospital.allow(hospital.find_life_budget(2))
    hospital.reserve()
    assert hospital.reserve(*RUNS).reasons == (
        "the runs of the sweep together would exceed the privacy budget of tiny-2026",
    )
    assert hospital.kept == {}


def test_a_sweep_that_spends_more_than_it_states_is_declined(hospital):
    (reason,) = hospital.reserve(*RUNS[:2], epsilon=1.5).reasons
    assert re.fullmatch(
        r"the sweep requests epsilon 1\.5 at delta 0\.0002, its runs would spend epsilon 2\.\d+ at delta 0\.0001 "
        r"for each patient, noise multiplier 3\.\d+ or more",
        reason,
    )
    assert hospital.kept == {}


def test_one_run_that_the_policy_forbids_declines_the_sweep(hospital):
    forbidden = hospital.plan(RUNS[1], "privacy=client")
    reason = "the privacy unit client is not allowed here, only: patient"
    assert hospital.reserve(RUNS[0], forbidden).reasons == (reason,)
    assert hospital.kept == {}


def test_with_a_statement_nothing_but_a_reservation_can_be_had(hospital):
    job = hospital.sign_job("askedfor1234", BudgetRequest(SWEEP, 4.0, (hospital.plan(RUNS[0]),)))
    assert hospital.ask(job, TRAIN).error.reason == "RequestMismatchError"
    assert hospital.kept == {}


def test_a_run_that_turns_out_to_cost_something_else_has_that_reserved(hospital):
    """Of a search, the settings of a trial are known when it starts."""
    assert hospital.reserve(hospital.plan(RUNS[0], "training.local_steps=7")).reasons == ()
    before = hospital.kept[RUNS[0]].cost.events
    assert hospital.handshake(RUNS[0]) == ()
    after = hospital.kept[RUNS[0]].cost.events
    assert before != after
    assert {event.steps for event in after} == {6, 1}  # two rounds of two steps and a spare one, and the scores
