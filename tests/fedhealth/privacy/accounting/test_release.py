"""Every release cites one booking: each transition of the state machine, and any sequence of them."""

import itertools
import multiprocessing
import os
import threading
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhealth.errors import PrivacyError
from fedhealth.privacy.accounting.accountant import PrivacyEvent, compute_epsilon
from fedhealth.privacy.accounting.booking import MAX_RETRIES, find_bookings, find_open_booking
from fedhealth.privacy.accounting.budget import PrivacyBudget
from fedhealth.privacy.accounting.ledger import Ledger, verify_ledger
from fedhealth.privacy.accounting.ledger_entry import compute_spent_epsilon
from fedhealth.privacy.accounting.ledger_folder import get_ledger_path, get_release_key_path
from fedhealth.privacy.accounting.limits import BudgetExceededError
from fedhealth.privacy.accounting.plan import PrivacyPlan
from fedhealth.privacy.accounting.release import (
    digest_words,
    is_recorded_release,
    load_release_key,
    record_failure,
    record_release,
)
from fedhealth.privacy.context import AccountingContext
from fedhealth.privacy.mechanisms.clipping import Clipping
from fedhealth.site.decline_reasons import UNLISTED_REASON, redact_reason

DATA, DELTA = "derm", 1e-6
BUDGET = PrivacyBudget(DATA, 1e3)
SCORES = PrivacyEvent(4.0, 1.0, 1)
PLAN = PrivacyPlan("patient", 1.0, 1, 5, Clipping(1.0), 3.0, 100.0, DELTA, 1, SCORES, spare_rounds=1)


@dataclass
class Site:
    """A site's books, as a run uses them."""

    folder: object
    budget: PrivacyBudget = BUDGET

    def place(self, round_=1, exchange=0, run="run", purpose="train"):
        return AccountingContext(run, "a", self.folder, round_, PLAN.rounds, purpose, exchange)

    def book(self, round_=1, exchange=0, run="run", purpose="train", event=PLAN.round_event):
        with self.budget.open_ledger(self.folder) as ledger:
            return self.budget.book(ledger, PLAN, self.place(round_, exchange, run, purpose), event).number

    def release(self, digest, round_=1, exchange=0, late=(), purpose="train"):
        record_release(self.folder, DATA, self.place(round_, exchange, purpose=purpose), digest, late)

    def is_recorded(self, digest, run="run", purpose="train"):
        return is_recorded_release(self.folder, DATA, run, purpose, digest)

    def fail(self, run="run"):
        return record_failure(self.folder, run)

    @property
    def entries(self):
        return verify_ledger(get_ledger_path(self.folder, DATA))

    @property
    def kinds(self):
        return [entry.kind for entry in self.entries]


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path)


# --- transitions ---


def test_an_honest_round_is_booked_and_released_once(site):
    assert not site.is_recorded("d1")
    assert site.book() == 1
    assert not site.is_recorded("d1")
    site.release("d1")
    assert site.is_recorded("d1")
    assert not site.is_recorded("d1", purpose="evaluate")
    assert not site.is_recorded("d1", run="other")
    assert not site.is_recorded("")
    booked, released = site.entries
    assert (released.kind, released.booking, released.digest) == ("release", booked.number, "d1")


def test_the_same_words_may_leave_again_and_no_others(site):
    site.book()
    site.release("d1", exchange=1)
    site.release("d1", exchange=1)
    assert site.kinds == ["book", "release"]
    site.release("d1", exchange=2)
    assert site.kinds == ["book", "release", "release"]
    with pytest.raises(PrivacyError, match="no open booking pays"):
        site.release("d2", exchange=3)
    assert not site.is_recorded("d2")


def test_a_crash_is_free_and_a_repeated_round_is_not(site):
    assert site.book(3, 1) == 1
    assert site.book(3, 1) == 1
    assert site.book(4, 2) == 1  # nothing of round 3 left
    site.release("d4", 4)
    assert site.book(4, 3) == 5  # the released round once more
    site.release("e4", 4)
    assert site.book(2, 4) == 7  # an older checkpoint
    assert site.kinds == ["book", "retry", "retry", "release", "book", "release", "book"]


def test_words_of_an_earlier_round_are_not_paid_for_by_a_later_attempt(site):
    site.book(3)
    site.book(4)
    with pytest.raises(PrivacyError, match="in round 3"):
        site.release("d3", 3)
    site.release("d4", 4)


def test_after_three_retries_the_booking_is_spent(site):
    assert [site.book() for _ in range(MAX_RETRIES + 2)] == [1, 1, 1, 1, 6]
    assert site.kinds == ["book", *["retry"] * MAX_RETRIES, "fail", "book"]


def test_an_open_booking_of_another_event_is_spent(site):
    site.book()
    assert site.book(event=PrivacyEvent(2.0, 1.0, 1)) == 3
    assert site.kinds == ["book", "fail", "book"]


def test_a_failure_is_spent_and_never_released(site):
    site.book()
    site.book(run="other")
    site.book(6, purpose="evaluate", event=SCORES)
    assert site.fail() == 2
    assert site.fail() == 0
    with pytest.raises(PrivacyError, match="no open booking pays"):
        site.release("d1")
    assert site.book() == 6
    assert compute_spent_epsilon(site.entries, DELTA, "run") == pytest.approx(
        compute_epsilon([PLAN.round_event, PLAN.round_event, SCORES], DELTA)
    )


def test_a_failure_of_an_unknown_run_touches_no_ledger(site):
    assert site.fail("unknown") == 0
    site.book()
    with Ledger.open(get_ledger_path(site.folder, DATA)):  # locked by a run on the same data set
        assert site.fail("unknown") == 0


def _hold(path, ready):
    with Ledger.open(path):
        ready.set()
        threading.Event().wait(0.5)


def test_a_failure_and_a_release_wait_for_the_lock_and_a_booking_does_not(site):
    site.book()
    context = multiprocessing.get_context("fork")
    for action in (lambda: site.release("d1"), lambda: site.fail("run")):
        ready = context.Event()
        other = context.Process(target=_hold, args=(get_ledger_path(site.folder, DATA), ready))
        other.start()
        assert ready.wait(20)
        with pytest.raises(PrivacyError, match="another run is using"):
            site.book(2)
        action()
        other.join()
        site.book(2)
    assert site.kinds[-2:] == ["fail", "book"]


def test_purposes_are_apart(site):
    site.book(5)
    site.book(6, purpose="evaluate", event=SCORES)
    site.release("scores", 6, purpose="evaluate")
    assert find_open_booking(site.entries, "run", "train").number == 1
    assert find_open_booking(site.entries, "run", "evaluate") is None


# --- late answers ---


def test_a_late_answer_cites_both_bookings(site):
    site.book(1)
    site.release("d1", 1)
    site.book(2)
    site.release("d1+d2", 2, late=[1])
    last = site.entries[-1]
    assert (last.booking, last.cites) == (3, (1,))
    site.release("d1+d2", 2, exchange=9, late=[1])
    assert site.entries[-1].cites == (1,)


def test_a_failed_round_may_be_cited_because_it_is_spent(site):
    site.book(1)
    site.fail()
    site.book(2)
    site.release("d1+d2", 2, late=[1])
    assert site.entries[-1].cites == (1,)


def test_an_unspent_round_cannot_be_cited(site):
    site.book(1)
    site.book(2)  # after a crash, under the booking of round 1
    with pytest.raises(PrivacyError, match="late update of round 1 is not paid for"):
        site.release("d1+d2", 2, late=[1])
    with pytest.raises(PrivacyError, match="late update of round 7"):
        site.release("d2", 2, late=[7])
    site.release("d2", 2)


def test_a_round_that_left_can_be_cited_although_it_was_begun_again(site):
    site.book(1)
    site.release("d1", 1)
    site.book(1)  # the lead repeats round 1; the site is killed
    site.book(2)
    site.release("d1+d2", 2, late=[1])
    assert (site.entries[-1].booking, site.entries[-1].cites) == (3, (1,))


# --- limits ---


def test_failures_are_limited_for_life(site):
    site.budget = replace(BUDGET, max_failures=2)
    for number in range(2):
        site.book(1, run=f"run{number}")
        assert site.fail(f"run{number}") == 1
    for attempt in (lambda: site.book(1, run="next"), lambda: site.budget.check_run(PLAN, site.place(0, run="next"))):
        with pytest.raises(BudgetExceededError, match=r"limits\.max_failures: 2 ") as caught:
            attempt()
        assert redact_reason(caught.value.problem) != UNLISTED_REASON
    site.budget = replace(BUDGET, max_failures=3)
    site.budget.check_run(PLAN, site.place(0, run="next"))


def test_four_record_level_runs_do_not_fit_a_patients_life_budget(site):
    site.budget = PrivacyBudget(DATA, 8.0, 20.0)
    patient = replace(PLAN, rounds=15, noise_multiplier=2.7, spare_rounds=0, score_release_event=None)
    assert patient.epsilon < 8
    record = replace(patient, unit="record", max_records_per_patient=5)
    with pytest.raises(PrivacyError, match="would exceed the privacy budget"):
        site.budget.check_run(record, site.place(0))
    with site.budget.open_ledger(site.folder) as ledger, pytest.raises(BudgetExceededError, match="all runs"):
        site.budget.book(ledger, record, site.place(1), record.run_event)
    fresh = Site(site.folder / "fresh", site.budget)
    for number in range(4):
        place = fresh.place(1, run=f"run{number}")
        if number < 3:
            fresh.budget.check_run(patient, place)
        with fresh.budget.open_ledger(fresh.folder) as ledger:
            fresh.budget.book(ledger, patient, place, patient.run_event)
        fresh.fail(f"run{number}")


def test_an_entry_stores_the_mechanism_its_unit_and_the_cap(site):
    record = replace(PLAN, unit="record", max_records_per_patient=5)
    with BUDGET.open_ledger(site.folder) as ledger:
        entry = BUDGET.book(ledger, record, site.place(2, 7), record.round_event)
    assert (entry.event, entry.unit, entry.max_records_per_patient) == (record.round_event, "record", 5)
    assert (entry.round, entry.exchange, entry.purpose) == (2, 7, "train")
    assert entry.patient_event.noise_multiplier == pytest.approx(record.noise_multiplier / 5)
    assert compute_spent_epsilon([entry], DELTA) > 3 * compute_spent_epsilon([entry], DELTA, "run")


# --- digests ---


def test_the_key_is_made_once_and_secret(tmp_path):
    key = load_release_key(tmp_path)
    assert len(key) == 32
    assert load_release_key(tmp_path) == key
    assert get_release_key_path(tmp_path).stat().st_mode & 0o777 == 0o600
    get_release_key_path(tmp_path).write_bytes(b"short")
    with pytest.raises(PrivacyError, match="damaged"):
        load_release_key(tmp_path)


def test_the_digest_depends_on_every_part_and_on_the_key():
    update, statistics = {"w": np.arange(3.0)}, {"test.positives": np.arange(4)}
    found = {
        digest_words(*words)
        for words in (
            (b"k" * 32, update, statistics),
            (b"l" * 32, update, statistics),
            (b"k" * 32, {"w": np.arange(3.0) + 1e-12}, statistics),
            (b"k" * 32, update, {}),
            (b"k" * 32, {}, {**update, **statistics}),
        )
    }
    assert len(found) == 5
    assert digest_words(b"k" * 32, dict(update), dict(statistics)) in found


def test_a_release_without_a_digest_is_refused(site):
    site.book()
    with pytest.raises(PrivacyError, match="needs the digest"):
        site.release("")


# --- any sequence ---


def name_words(vectors):
    return ",".join(map(str, sorted(vectors)))


@dataclass
class Simulation:
    """A site as its client code behaves, under any lead and any power cut; `left` is what an observer holds."""

    site: Site
    vectors: itertools.count = field(default_factory=lambda: itertools.count(1))
    words: dict = field(default_factory=dict)  # (purpose): (round, vectors), durable
    late: tuple = ()  # (round, vector, digest of the words that hold it), durable
    left: set = field(default_factory=set)  # (vector, event)
    backups: list = field(default_factory=list)  # of words of training rounds

    def train(self, round_, exchange, stop, with_late):
        """Train a round; `stop` cuts the power after booking (0), before storing (1), before recording (2)."""
        self.words.pop("train", None)
        self.site.book(round_, exchange)
        if stop == 0:
            return
        vector = next(self.vectors)
        included = {vector}
        rounds = ()
        if with_late and self.late and self.late[0] == round_ - 1 and self.site.is_recorded(self.late[2]):
            included.add(self.late[1])
            rounds = (self.late[0],)
        self.late = (round_, vector, name_words(included))
        if stop == 1:
            return
        self.words["train"] = (round_, frozenset(included), rounds)
        self.backups.append(self.words["train"])
        if stop > 2:
            self.send("train", exchange)

    def evaluate(self, exchange, stop):
        """Draw the scores, once."""
        if "evaluate" not in self.words:
            self.site.book(6, exchange, purpose="evaluate", event=SCORES)
            if stop == 0:
                return
            self.words["evaluate"] = (6, frozenset({next(self.vectors)}), ())
        if stop > 2:
            self.send("evaluate", exchange)

    def send(self, purpose, exchange):
        """Record the stored words and send them; an error reply leaves if they are not paid for."""
        if purpose not in self.words:
            return
        round_, vectors, late = self.words[purpose]
        digest = name_words(vectors)
        try:
            self.site.release(digest, round_, exchange, late, purpose)
        except PrivacyError:
            del self.words[purpose]
            self.fail()
            return
        assert self.site.is_recorded(digest, purpose=purpose)
        event = SCORES if purpose == "evaluate" else PLAN.round_event
        self.left |= {(vector, event) for vector in vectors}

    def fail(self):
        """An error reply leaves."""
        self.site.fail()

    def restore(self, place):
        """The words of any earlier training come back from a backup; the ledger does not."""
        if self.backups:
            self.words["train"] = self.backups[place % len(self.backups)]

    def lose_words(self, purpose):
        """The stored words are damaged."""
        self.words.pop(purpose, None)


ROUNDS, EXCHANGES, STOPS = st.integers(1, 4), st.integers(0, 3), st.integers(0, 3)
PURPOSES = st.sampled_from(["train", "evaluate"])
ACTIONS = st.one_of(
    st.tuples(st.just("train"), ROUNDS, EXCHANGES, STOPS, st.booleans()),
    st.tuples(st.just("train"), ROUNDS, EXCHANGES, st.just(3), st.booleans()),
    st.tuples(st.just("evaluate"), EXCHANGES, STOPS),
    st.tuples(st.just("send"), PURPOSES, EXCHANGES),
    st.tuples(st.just("fail")),
    st.tuples(st.just("restore"), st.integers(0, 9)),
    st.tuples(st.just("lose_words"), PURPOSES),
)


@settings(max_examples=100, deadline=None)
@given(actions=st.lists(ACTIONS, min_size=1, max_size=20))
def test_whatever_happens_the_ledger_never_shows_less_than_what_left(tmp_path_factory, actions):
    simulation = Simulation(Site(tmp_path_factory.mktemp("site")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)  # slow
        for name, *words in actions:
            getattr(simulation, name)(*words)
    if not simulation.left:
        return
    truth = compute_epsilon([event for _, event in simulation.left], DELTA)
    entries = simulation.site.entries
    assert compute_spent_epsilon(entries, DELTA, "run") >= truth * 0.999999
    assert compute_spent_epsilon(entries, DELTA) >= truth * 0.999999
    open_ones = [each for each in find_bookings(entries, "run") if each.state == "open"]
    assert len({each.entry.purpose for each in open_ones}) == len(open_ones)


@settings(max_examples=20, deadline=None)
@given(cuts=st.lists(st.integers(0, 2), min_size=5, max_size=5), resends=st.integers(0, 2))
def test_an_honest_run_with_power_cuts_spends_exactly_what_was_planned(tmp_path_factory, cuts, resends):
    simulation = Simulation(Site(tmp_path_factory.mktemp("site")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)  # slow
        for number, cut in enumerate(cuts, 1):
            for _ in range(cut):
                simulation.train(number, number, cut - 1, with_late=False)
            simulation.train(number, number, 3, with_late=False)
            for again in range(resends):
                simulation.send("train", 100 + again)
        simulation.evaluate(99, 0)
        simulation.evaluate(99, 3)
    booked = [entry.event for entry in simulation.site.entries if entry.kind == "book"]
    assert booked == [PLAN.round_event] * PLAN.rounds + [SCORES]
    assert len(simulation.left) == len(booked)
    assert compute_spent_epsilon(simulation.site.entries, DELTA, "run") < PLAN.epsilon
