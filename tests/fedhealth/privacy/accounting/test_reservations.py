"""What a sweep has reserved: used up by its own runs, unavailable to others, given back, and void after its time."""

from collections import Counter
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhealth.errors import PrivacyError
from fedhealth.privacy.accounting.accountant import PrivacyEvent, compute_epsilon
from fedhealth.privacy.accounting.ledger import Ledger, verify_ledger
from fedhealth.privacy.accounting.ledger_entry import LedgerEntry
from fedhealth.privacy.accounting.limits import BudgetExceededError, EpsilonLimits
from fedhealth.privacy.accounting.rdp_filter import make_rdp_filter
from fedhealth.privacy.accounting.reservations import (
    RunCost,
    compute_remaining_cost,
    find_active_reservations,
    get_reserved_patient_events,
)

ROUND, SCORES = PrivacyEvent(1.0, 0.1, 10), PrivacyEvent(4.0, 1.0, 1)
TRAINING = PrivacyEvent(1.0, 0.1, 30)  # three rounds
COST = RunCost("patient", (TRAINING, SCORES))
DELTA = 1e-5
FREE = EpsilonLimits(DELTA)
LATER = 10_000.0


@pytest.fixture
def path(tmp_path):
    return tmp_path / "site" / "derm.jsonl"


@pytest.fixture
def clock():
    return Clock()


class Clock:
    """Seconds since 1970, as the test says."""

    now = 1000.0

    def __call__(self):
        return self.now


def filtered(runs):
    """Return the smallest budget, within about 1 %, whose filter admits so many runs."""
    budget = 0.5
    while not make_rdp_filter(budget, DELTA).is_within_budget(COST.events * runs):
        budget *= 1.005
    return budget


def kept(ledger):
    return {held.run: held.cost.events for held in ledger.get_reservations()}


def test_the_runs_of_a_sweep_use_up_what_was_reserved_for_them(path, clock):
    with Ledger.open(path, clock) as ledger:
        ledger.reserve("sweep0", {"one": COST, "two": COST}, LATER, FREE)
        assert kept(ledger) == {"one": (TRAINING, SCORES), "two": (TRAINING, SCORES)}
        ledger.book("one", 1, "patient", ROUND, FREE)
        assert kept(ledger)["one"] == (PrivacyEvent(1.0, 0.1, 20), SCORES)
        for number in (2, 3):
            ledger.book("one", number, "patient", ROUND, FREE)
        ledger.book("one", 4, "patient", SCORES, FREE)
        assert kept(ledger) == {"two": (TRAINING, SCORES)}
        ledger.book("one", 3, "patient", ROUND, FREE)  # a round that had to be repeated is booked beside it
        assert kept(ledger) == {"two": (TRAINING, SCORES)}
    assert [entry.kind for entry in verify_ledger(path)] == ["reserve"] * 4 + ["book"] * 5


def test_nothing_reserved_counts_as_spent(path, clock):
    with Ledger.open(path, clock) as ledger:
        ledger.reserve("sweep0", {"one": COST}, LATER, FREE)
        assert ledger.compute_spent_epsilon(DELTA) == 0


def test_others_cannot_have_what_is_reserved_and_its_own_run_can(path, clock):
    whole = compute_epsilon([TRAINING, SCORES], DELTA)
    budget = EpsilonLimits(DELTA, lifetime_epsilon=1.05 * filtered(1), lifetime_delta=DELTA)
    with Ledger.open(path, clock) as ledger:
        ledger.reserve("sweep0", {"one": COST}, LATER, budget)
        with pytest.raises(PrivacyError, match="all runs on this data set would exceed"):
            ledger.book("other", 1, "patient", TRAINING, budget)
        for number in (1, 2, 3):
            ledger.book("one", number, "patient", ROUND, budget)
        ledger.book("one", 4, "patient", SCORES, budget)
        assert ledger.compute_spent_epsilon(DELTA) == pytest.approx(whole)


def test_a_reservation_lapses_by_itself(path, clock):
    budget = EpsilonLimits(DELTA, lifetime_epsilon=1.05 * filtered(1), lifetime_delta=DELTA)
    with Ledger.open(path, clock) as ledger:
        ledger.reserve("sweep0", {"one": COST}, LATER, budget)
        clock.now = LATER + 1
        assert kept(ledger) == {}
        ledger.book("other", 1, "patient", ROUND, budget)
        ledger.reserve(
            "sweep0", {"one": RunCost("patient", (ROUND,))}, LATER + 100, budget
        )  # what lapsed does not come back
        assert kept(ledger) == {"one": (ROUND,)}


def test_a_new_statement_replaces_the_old_one_and_an_empty_one_gives_everything_back(path, clock):
    with Ledger.open(path, clock) as ledger:
        ledger.reserve("sweep0", {"one": COST, "two": COST}, LATER, FREE)
        ledger.book("one", 1, "patient", ROUND, FREE)
        ledger.reserve("sweep0", {"one": COST, "three": COST}, LATER + 1, FREE)  # of run one, a round is booked
        assert kept(ledger) == {"one": (PrivacyEvent(1.0, 0.1, 20), SCORES), "three": COST.events}
        ledger.reserve("another0", {"four": COST}, LATER, FREE)
        ledger.reserve("sweep0", {}, LATER, FREE)
        assert kept(ledger) == {"four": COST.events}


def test_asked_again_nothing_is_written(path, clock):
    with Ledger.open(path, clock) as ledger:
        for _ in range(3):
            ledger.reserve("sweep0", {"one": COST}, LATER, FREE)
            ledger.update_reservation("one", COST)
            ledger.update_reservation("unknown", COST)
        assert len(ledger.entries) == 2


def test_beyond_the_budget_nothing_is_reserved_and_what_was_stays(path, clock):
    budget = EpsilonLimits(DELTA, lifetime_epsilon=1.01 * filtered(2), lifetime_delta=DELTA)
    with Ledger.open(path, clock) as ledger:
        ledger.reserve("sweep0", {"one": COST}, LATER, budget)
        with pytest.raises(BudgetExceededError, match="reserved ones too, on this data set would exceed"):
            ledger.reserve("sweep0", dict.fromkeys(["one", "two", "three"], COST), LATER, budget)
        with pytest.raises(BudgetExceededError):
            ledger.reserve("another0", dict.fromkeys(["four", "five"], COST), LATER, budget)
        assert kept(ledger) == {"one": COST.events}
        ledger.reserve("another0", {"four": COST}, LATER, budget)


def test_a_run_that_costs_something_else_after_all_has_that_kept_instead(path, clock):
    dearer = RunCost("patient", (PrivacyEvent(0.9, 0.2, 30),))
    with Ledger.open(path, clock) as ledger:
        ledger.reserve("sweep0", {"one": COST, "two": COST}, LATER, FREE)
        ledger.update_reservation("one", dearer)
        assert kept(ledger) == {"one": dearer.events, "two": COST.events}
        ledger.book("one", 1, "patient", PrivacyEvent(0.9, 0.2, 10), FREE)
        ledger.update_reservation("one", dearer)
        assert kept(ledger)["one"] == (PrivacyEvent(0.9, 0.2, 20),)


def test_a_reservation_counts_in_the_unit_of_a_patient(path, clock):
    budget = EpsilonLimits(DELTA, lifetime_epsilon=1.05 * filtered(1), lifetime_delta=DELTA)
    with Ledger.open(path, clock) as ledger:
        with pytest.raises(BudgetExceededError):
            ledger.reserve("sweep0", {"one": RunCost("record", COST.events, 2)}, LATER, budget)
        ledger.reserve("sweep0", {"one": RunCost("record", COST.events, 1)}, LATER, budget)
        ledger.reserve("sweep0", {"one": RunCost("record", COST.events, 2)}, LATER, FREE)
        assert [each.cost.max_records_per_patient for each in ledger.get_reservations()] == [2]


EVENTS = st.builds(PrivacyEvent, st.sampled_from([0.5, 1.0, 2.0]), st.sampled_from([0.1, 1.0]), st.integers(1, 5))


@given(st.lists(EVENTS, min_size=1, max_size=4), st.lists(EVENTS, max_size=6))
def test_booked_and_kept_together_are_never_less_than_what_was_reserved(costs, booked):
    numbers = count(1)
    lines = [
        LedgerEntry(next(numbers), 0.0, "reserve", "one", 0, "patient", event, sweep="s", expires_at=9.0)
        for event in costs
    ]
    lines += [LedgerEntry(next(numbers), 0.0, "book", "one", 1, "patient", event) for event in booked]
    left = get_reserved_patient_events(find_active_reservations(lines, 1.0))
    assert tuple(left) == compute_remaining_cost(RunCost("patient", tuple(costs)), booked).events
    asked, covered = steps(costs), steps(left) + steps(booked)
    assert all(covered[key] >= asked[key] for key in asked)
    assert all(steps(left)[key] <= asked[key] for key in steps(left))


def steps(events):
    found = Counter()
    for event in events:
        found[event.noise_multiplier, event.sample_rate] += event.steps
    return found
