"""The books of a whole site: whatever happens, the ledger never shows less than what the replies that left cost.

Random sequences of requests, power cuts, failures, lost workers, damaged files, restored files and reservations go
through the site's own code. What the replies cost is computed by an independent accountant from the distinct draws of
noise that they were made of.
"""

from collections import Counter
from contextlib import ExitStack
from dataclasses import replace
from functools import lru_cache

import pytest
from dp_accounting import dp_event, pld
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clients import app
from clients.merge import StateMerger
from clients.release import ReleaseRecorder
from fedhealth.privacy.accounting.booking import find_bookings
from fedhealth.privacy.accounting.budget import PrivacyBudget
from fedhealth.privacy.accounting.ledger import Ledger
from fedhealth.privacy.accounting.ledger_entry import compute_spent_epsilon
from fedhealth.site.egress_gate import ReleaseReceipt
from tests.clients.books import CUTS, build_template, open_books

DELTA = 1e-6
KINDS = ("plaintext", "masked")
PATIENT = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of damaged files that numpy reads


@pytest.fixture(scope="module", name="templates")
def templates_(good_hospitals, tiny_overrides, tmp_path_factory):
    overrides = tiny_overrides(good_hospitals)
    masked = ["secagg=on", "secagg.min_sites=1"]
    return {
        "plaintext": build_template(tmp_path_factory.mktemp("plaintext"), overrides),
        "masked": build_template(tmp_path_factory.mktemp("masked"), overrides, *masked),
    }


@pytest.fixture(scope="module", name="play")
def play_(templates, tmp_path_factory):
    """Return a function that plays a sequence of actions at a new site, and returns its books."""

    def play(kind, actions):
        books = open_books(templates[kind], tmp_path_factory.mktemp("site"))
        with ExitStack() as stack:
            books.watch(stack)
            for name, *arguments in actions:
                getattr(books, name)(*arguments)
        return books

    return play


@lru_cache
def compute_pld_epsilon(events):
    accountant = pld.PLDAccountant(value_discretization_interval=1e-3)
    for event, count in events:
        step = dp_event.PoissonSampledDpEvent(event.sample_rate, dp_event.GaussianDpEvent(event.noise_multiplier))
        accountant.compose(dp_event.SelfComposedDpEvent(step, event.steps * count))
    return accountant.get_epsilon(DELTA)


def compute_truth(books, run=None):
    """Return what the distinct draws in the replies that left cost, by dp-accounting."""
    left = {draw for departure in books.left for draw in departure.draws if run in (None, draw.run)}
    counts = Counter(draw.event for draw in left)
    ordered = sorted(counts.items(), key=lambda pair: (pair[0].noise_multiplier, pair[1]))
    return compute_pld_epsilon(tuple(ordered)) if counts else 0.0


def check_books(books):
    """Check that the ledger shows at least what left, and that each release cites the bookings of its draws."""
    entries = books.entries
    assert compute_spent_epsilon(entries, DELTA) >= compute_truth(books) * 0.999
    for run in {entry.run for entry in entries}:
        assert compute_spent_epsilon(entries, DELTA, run) >= compute_truth(books, run) * 0.999
        assert compute_spent_epsilon(entries, DELTA, run) <= 8.0  # the limit of a run
    for departure in books.left:
        bookings = [each for each in find_bookings(entries, departure.run) if departure.digest == each.digest != ""]
        assert bookings, "a reply left that no release names"
        cited = {number for each in bookings for number in (each.number, *each.cites)}
        assert {draw.booking for draw in departure.draws} <= cited, "a reply does not cite what paid for its noise"


RUNS, ROUNDS, CHANGES = st.sampled_from(["run", "other"]), st.integers(1, 4), st.sampled_from([0.0, 0.5])
CUT, NUMBER = st.sampled_from([None, None, *CUTS]), st.integers(0, 5)
ACTIONS = st.one_of(
    st.tuples(st.just("train"), RUNS, ROUNDS, CHANGES, st.booleans(), CUT),
    st.tuples(st.just("train"), st.just("run"), ROUNDS, CHANGES, st.booleans(), CUT),
    st.tuples(st.just("evaluate"), RUNS, st.sampled_from([None, "book", "words", "release", "reply"])),
    st.tuples(st.just("fail"), RUNS, ROUNDS),
    st.tuples(st.just("lose_worker"), RUNS, ROUNDS, st.sampled_from(list(CUTS))),
    st.tuples(st.just("back_up")),
    st.tuples(st.just("restore"), NUMBER),
    st.tuples(st.just("damage"), NUMBER),
    st.tuples(st.just("reserve"), st.sampled_from([(), ("run",), ("run", "other")])),
)
SEQUENCES = st.lists(ACTIONS, min_size=8, max_size=18)
QUICK = settings(deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None)


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_happens_the_ledger_shows_at_least_what_left(play, kind):
    left = []

    @settings(QUICK, max_examples=25)
    @given(SEQUENCES)
    def check(actions):
        books = play(kind, actions)
        check_books(books)
        left.append(len({draw for departure in books.left for draw in departure.draws}))

    check()
    assert max(left) > 2, left
    assert sum(count > 1 for count in left) > len(left) / 4, left  # many sequences test something


HONEST = [("train", "run", number, 0.0) for number in (1, 2, 3, 4)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cut", [None, *CUTS])
def test_an_honest_run_spends_exactly_what_was_planned_also_with_a_power_cut_in_each_round(play, kind, cut):
    cuts = [] if cut is None else [(*request, False, cut) for request in HONEST]
    again = [action for pair in zip(cuts, HONEST, strict=True) for action in pair] if cuts else HONEST
    books = play(kind, [*again, ("evaluate", "run")])
    check_books(books)
    booked = [entry for entry in books.entries if entry.kind == "book"]
    assert [entry.purpose for entry in booked] == ["train"] * 4 + ["evaluate"]
    assert {each.state for each in find_bookings(books.entries, "run")} == {"released"}
    truth = compute_truth(books)
    assert truth * 0.999 <= compute_spent_epsilon(books.entries, DELTA) <= truth * 1.02
    assert 7.0 < truth < 8.0  # the spare round is not spent


# --- planted faults: the check above must find each of them ---


def accept_closed_bookings(patch):
    """A booking pays for other words although its own have left, or although it failed."""
    patch.setattr("fedhealth.privacy.accounting.release._find_payer", lambda bookings, accounting: bookings[-1])
    patch.setattr(Ledger, "update_booking", update_without_check)


def reuse_a_booking_for_an_earlier_round(patch):
    """A round that was trained before is trained again under its old booking, as the site once did."""
    genuine = PrivacyBudget.book

    def book(budget, ledger, plan, accounting, event):
        bookings = find_bookings(ledger.entries, accounting.run, accounting.purpose)
        earlier = [each for each in bookings if each.rounds[-1] >= accounting.round and each.state != "open"]
        return earlier[-1].entry if earlier else genuine(budget, ledger, plan, accounting, event)

    patch.setattr(PrivacyBudget, "book", book)
    accept_closed_bookings(patch)


def record_the_release_after_the_reply(patch):
    """The first byte leaves before the ledger knows."""
    waiting, genuine_record, genuine_reply = [], ReleaseRecorder.record, app._handle_and_check

    def reply(institution, message, gate):
        waiting.clear()
        content = genuine_reply(institution, message, gate)
        for recorder, release in waiting:
            genuine_record(recorder, release)
        return content

    patch.setattr(ReleaseRecorder, "record", lambda recorder, release: waiting.append((recorder, release)))
    patch.setattr(ReleaseRecorder, "make_receipt", lambda self, release: ReleaseReceipt(release.digest, lambda: True))
    patch.setattr(app, "_handle_and_check", reply)


def cite_nothing(patch):
    """A late reply names only its own booking."""
    genuine = StateMerger.compute_update
    patch.setattr(StateMerger, "compute_update", lambda *args: replace(genuine(*args), late_rounds=()))


def update_without_check(ledger, kind, booking, round_, **details):
    draft = replace(booking.entry, kind=kind, round=round_, booking=booking.number, **details)
    ledger._append_entry(draft)


FOUND_BY = {
    accept_closed_bookings: [  # the words of an interrupted training come back after others have left
        ("train", "run", 1, 0.0, False, "words"),
        ("back_up",),
        ("train", "run", 1, 0.5),
        ("restore",),
        ("train", "run", 1, 0.0),
    ],
    reuse_a_booking_for_an_earlier_round: [("train",), ("train", "run", 2), ("train", "run", 1, 0.5)],
    record_the_release_after_the_reply: [("train", "run", 1, 0.0, False, "reply"), ("train", "run", 1, 0.5)],
    cite_nothing: [("train",), ("train", "run", 2, 0.0, True)],
}


@pytest.mark.parametrize(
    ("kind", "mutant"),
    [
        pytest.param(kind, mutant, id=f"{mutant.__name__}-{kind}")
        for mutant in FOUND_BY
        for kind in KINDS
        if (kind, mutant) != ("masked", cite_nothing)  # secure aggregation has no late updates
    ],
)
def test_a_planted_fault_is_found(play, kind, mutant):
    check_books(play(kind, FOUND_BY[mutant]))
    with pytest.MonkeyPatch.context() as patch:
        mutant(patch)
        books = play(kind, FOUND_BY[mutant])
        with pytest.raises(AssertionError):
            check_books(books)
