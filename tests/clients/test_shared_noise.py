"""Shared noise at a hospital: when it declines, what it derives itself, and what it books for a share of the noise."""

import math
from dataclasses import replace

import pytest

from fedhealth.privacy.accounting.accountant import compute_epsilon, get_local_events
from fedhealth.privacy.accounting.booking import find_bookings
from fedhealth.privacy.accounting.ledger import verify_ledger
from fedhealth.privacy.accounting.ledger_entry import get_booked_events
from fedhealth.privacy.accounting.ledger_folder import get_ledger_path
from fedhealth.protocol.messages import SECAGG, TRAIN
from fedhealth.secagg.primitives.layout import WEIGHT_ONE, make_model_segment, make_noised_segment
from fedhealth.secagg.protocol.messages import KeyAnnouncement
from fedhealth.site import decline_reasons
from tests.clients.lying_lead import MODEL, PRIVATE, RUN, assert_refused, read_error

SHARED_NOISE = (*PRIVATE, "method=fedsgd", "privacy.noise=shared", "privacy.sample_rate=0.5")
ALLOWED = "local_epsilon: 30, lifetime_local_epsilon: 60"
EXCEEDED = "the run would exceed the privacy budget of tiny-2026"


@pytest.fixture
def join(meet):
    """Let a hospital join a run that shares noise, of four members of which one colludes."""

    def meet_and_join(*words, limits=ALLOWED, **about):
        lead = meet(words=(*SHARED_NOISE, *words), limits=limits, **about)
        assert lead.handshake() == ()
        return lead

    return meet_and_join


def load_entries(lead):
    path = get_ledger_path(lead.home.state, "tiny-2026")
    return verify_ledger(path) if path.exists() else ()


def get_own_noise(lead):
    return KeyAnnouncement.from_bytes(lead.announced[0], "").noise


@pytest.mark.parametrize(
    ("words", "limits", "reason"),
    [
        ((), "", decline_reasons.SHARED_NOISE_NOT_ALLOWED),
        ((), "lifetime_local_epsilon: 60", decline_reasons.SHARED_NOISE_NOT_ALLOWED),
        ((), "local_epsilon: 30, lifetime_local_epsilon: 5", EXCEEDED),
        (("privacy.sample_rate=null",), ALLOWED, "shared noise needs one privacy.sample_rate for all sites"),
        (("training.sends=update",), ALLOWED, "shared noise needs training.sends=gradient with one local step"),
        (("training.local_steps=2",), ALLOWED, decline_reasons.NO_PLAIN_GRADIENTS),
        (("strategy.staleness=0.5",), ALLOWED, decline_reasons.NO_PLAIN_GRADIENTS),
        (("personalization=fedper",), ALLOWED, decline_reasons.NO_PLAIN_GRADIENTS),
        (("personalization=fedbn",), ALLOWED, decline_reasons.NO_PLAIN_GRADIENTS),
        (("personalization=mr_mtl",), ALLOWED, decline_reasons.NO_PLAIN_GRADIENTS),
        (("personalization=scaffold",), ALLOWED, decline_reasons.NO_PLAIN_GRADIENTS),
        (("strategy.max_update_norm=1",), ALLOWED, decline_reasons.NO_SHARED_NOISE),
    ],
)
def test_a_hospital_declines_what_would_have_less_noise_than_promised(meet, words, limits, reason):
    changed = {word.partition("=")[0] for word in words}
    chosen = tuple(word for word in SHARED_NOISE if word.partition("=")[0] not in changed)
    model = tuple(word for word in MODEL if word.partition("=")[0] not in changed)
    lead = meet(words=(*chosen, *words), limits=limits, model=model)
    assert lead.handshake() == (reason,)
    assert not get_booked_events(load_entries(lead))


def test_without_secure_aggregation_there_are_no_shares(meet):
    lead = meet(words=SHARED_NOISE, limits=f"{ALLOWED}, secure_aggregation: false")
    lead.order("secagg=off")
    assert lead.handshake() == (decline_reasons.NO_SHARED_NOISE,)
    assert not get_booked_events(load_entries(lead))


def test_a_job_that_assumes_fewer_colluders_than_the_hospital_is_declined(meet):
    lead = meet(words=(*SHARED_NOISE, "secagg.colluders=0"), limits=f"{ALLOWED}, colluders: 1")
    assert lead.handshake() == ("the run assumes 0 colluding sites, this site requires 1",)


@pytest.mark.parametrize("threshold", [2, 5])
def test_a_threshold_that_the_cohort_cannot_have_is_refused_and_books_nothing(join, threshold):
    lead = join()
    honest = lead.describe_attempt(TRAIN, lead.directive(TRAIN), lead.state, threshold=3)
    before = lead.books()
    assert_refused(lead, lead.ask(TRAIN, descriptor=replace(honest, threshold=threshold)), before)
    assert not get_booked_events(load_entries(lead))


@pytest.mark.parametrize("threshold", [(3, 4), (4, 3)])
def test_shares_for_another_threshold_than_the_attempts_are_refused(join, threshold):
    """With three of four answers two honest shares count, with four of four three."""
    claimed, used = threshold
    lead = join()
    honest = lead.describe_attempt(TRAIN, lead.directive(TRAIN), lead.state, threshold=claimed)
    before = lead.books()
    assert_refused(lead, lead.ask(TRAIN, descriptor=replace(honest, threshold=used)), before)


@pytest.mark.parametrize("word", ["privacy.sample_rate=0.9", "privacy.max_grad_norm=2", "privacy.noise=local"])
def test_other_words_than_those_of_the_handshake_are_refused_and_book_nothing(join, word):
    """The rate q, the bound C and the kind of noise are in the configuration whose digest everybody signed."""
    lead = join()
    signed, before = lead.digest, lead.books()
    lead.order(word)
    assert lead.digest != signed
    assert read_error(lead.ask(TRAIN)) is not None
    assert not get_booked_events(load_entries(lead))
    assert set(lead.books()) == set(before)


def test_three_members_are_needed(meet):
    lead = meet(members=4, run=2, words=SHARED_NOISE, limits=ALLOWED + ", min_sites: 1")
    assert lead.handshake()


def test_a_round_is_booked_with_both_numbers_before_its_words_leave(join):
    lead = join()
    assert read_error(lead.ask(TRAIN)) is None
    (booking,) = find_bookings(load_entries(lead), RUN)
    event = booking.entry.mechanism
    assert booking.state == "released"
    assert (event.sample_rate, event.steps, event.shares) == (0.5, 1, 3)  # 4 members, 1 of whom colludes
    assert event.noise_multiplier == get_own_noise(lead)
    assert event.local.noise_multiplier == pytest.approx(event.noise_multiplier / math.sqrt(3))
    whole = [replace(event, steps=3)]  # two rounds and a spare one
    assert compute_epsilon(whole, 1e-6) <= 8 < compute_epsilon(get_local_events(whole), 1e-6) <= 30


def test_a_strict_hospital_demands_more_noise_from_all(join):
    loose, strict = get_own_noise(join()), get_own_noise(join(limits="local_epsilon: 4, lifetime_local_epsilon: 60"))
    assert strict > 1.5 * loose


@pytest.mark.parametrize("threshold", [3, 4])
def test_the_noise_of_the_strictest_member_holds_for_all(join, threshold):
    lead = join()
    own = get_own_noise(lead)
    lead.announced = (
        lead.announced[0],
        *(lead.announce(site, towers, noise=3 * own) for site, towers in lead.towers.items()),
    )
    honest = lead.describe_attempt(TRAIN, lead.directive(TRAIN), lead.state, threshold)
    for segment in honest.layout:
        if segment.kind == "noised":
            assert segment.shares == threshold - 1
            assert segment.share_std == pytest.approx(3 * own / math.sqrt(segment.shares))
    weaker = tuple(rebuild(s, noise=own, shares=s.shares) if s.kind == "noised" else s for s in honest.layout)
    before = lead.books()
    assert_refused(lead, lead.ask(TRAIN, descriptor=replace(honest, layout=weaker)), before)
    assert read_error(lead.ask(TRAIN, descriptor=honest)) is None


def rebuild(segment, noise=None, shares=None, bits=24, sites=None):
    """Return a segment of other noise whose grid and bound fit it."""
    layers = {entry.name: entry.length for entry in segment.entries}
    noise = segment.share_std * math.sqrt(segment.shares) if noise is None else noise
    return make_noised_segment(
        segment.name,
        segment.tower,
        layers,
        noise_std=noise,
        shares=shares or segment.shares,
        bits=bits,
        sites=sites or segment.sites,
    )


LIES = {
    "less noise": lambda s: rebuild(s, noise=0.99 * s.share_std * math.sqrt(s.shares)),
    "more noise": lambda s: rebuild(s, noise=1.01 * s.share_std * math.sqrt(s.shares)),
    "more shares": lambda s: rebuild(s, shares=s.shares + 1),
    "the same noise for more shares": lambda s: rebuild(
        s, noise=s.share_std * math.sqrt(s.shares + 1), shares=s.shares + 1
    ),
    "shorter words": lambda s: rebuild(s, bits=16),
    "longer words": lambda s: rebuild(s, bits=32),
    "more sites": lambda s: rebuild(s, sites=s.sites + 1),
    "no noise": lambda s: make_model_segment(
        s.name,
        s.tower,
        {e.name: e.length for e in s.entries},
        bound=8.0,
        bits=32,
        sites=s.sites,
        normaliser=4 * WEIGHT_ONE,
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_false_number_about_the_noise_is_refused_and_books_nothing(join, lie):
    lead = join()
    honest = lead.describe_attempt(TRAIN, lead.directive(TRAIN), lead.state, threshold=3)
    assert any(segment.kind == "noised" for segment in honest.layout)
    layout = tuple(LIES[lie](segment) if segment.kind == "noised" else segment for segment in honest.layout)
    before = lead.books()
    assert_refused(lead, lead.ask(TRAIN, descriptor=replace(honest, layout=layout)), before)
    assert not get_booked_events(load_entries(lead))
    assert read_error(lead.ask(TRAIN, descriptor=honest)) is None


def test_a_stricter_policy_after_the_handshake_stops_the_run_before_anything_is_booked(join):
    lead = join()
    lead.set_limits(f"{ALLOWED}, min_noise_multiplier: 50")
    assert read_error(lead.ask(TRAIN)) is not None
    assert not get_booked_events(load_entries(lead))


def test_a_question_that_is_asked_again_gets_a_fresh_draw_and_a_booking_of_its_own(join):
    lead = join()
    first = lead.ask(TRAIN, lead.directive(TRAIN, exchange=1))
    lead.renew_keys()
    second = lead.ask(TRAIN, lead.directive(TRAIN, exchange=2))
    assert read_error(first) is read_error(second) is None
    bookings = find_bookings(load_entries(lead), RUN)
    assert [booking.state for booking in bookings] == ["released", "released"]
    assert bookings[0].digest != bookings[1].digest


def test_the_same_question_in_another_attempt_masks_the_same_draw_again(join):
    lead = join()
    assert read_error(lead.ask(TRAIN, lead.directive(TRAIN, exchange=1))) is None
    assert read_error(lead.ask(TRAIN, lead.directive(TRAIN, exchange=2, repetition=1))) is None
    (booking,) = find_bookings(load_entries(lead), RUN)
    assert booking.state == "released"


def test_the_same_question_to_fewer_sites_needs_a_draw_with_a_larger_share(join):
    """Four answers count three honest shares, three count two: the words do not fit, and a new draw is booked."""
    lead = join()
    assert read_error(lead.ask(TRAIN, lead.directive(TRAIN, exchange=1), threshold=4)) is None
    fewer = lead.directive(TRAIN, exchange=2, repetition=1, cohort=lead.cohort[:3])
    assert read_error(lead.ask(TRAIN, fewer, threshold=3)) is None
    bookings = find_bookings(load_entries(lead), RUN)
    assert len(bookings) == 2
    assert bookings[0].digest != bookings[1].digest


def test_nothing_but_the_words_of_a_share_leaves(join):
    reply = join().ask(TRAIN)
    assert set(reply.content) == {SECAGG, "sealed", "statement"}
