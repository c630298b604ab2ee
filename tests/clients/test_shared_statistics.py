"""Statistics whose noise the hospitals share: what a hospital books for a draw, and that a draw is for one sum."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from clients.transport.contributors import load_upload
from fedhealth.consortium.identity import make_secrets_folder
from fedhealth.privacy.accounting.booking import find_bookings
from fedhealth.privacy.accounting.ledger import verify_ledger
from fedhealth.privacy.accounting.ledger_folder import get_ledger_path
from fedhealth.privacy.auditing.blank_values import measure_blanks
from fedhealth.protocol.messages import DESCRIBE, EVALUATE
from fedhealth.secagg.client.quantized_store import load_quantized
from fedhealth.secagg.primitives.layout import make_noised_segment
from fedhealth.secagg.primitives.noise_grid import name_blanks
from fedhealth.secagg.protocol.layout_plan import NOISED_STATISTICS_SEGMENT
from fedhealth.secagg.protocol.messages import KeyAnnouncement
from fedhealth.secagg.protocol.store import FileStore
from fedhealth.site import decline_reasons
from tests.clients.lying_lead import RUN, VICTIM, assert_refused, read_error
from tests.clients.test_shared_noise import ALLOWED, LIES, SHARED_NOISE

DESCRIPTION = ("purpose=describe", "privacy=patient", "privacy.epsilon=2", "privacy.noise=shared")
WORDS = {EVALUATE: SHARED_NOISE, DESCRIBE: DESCRIPTION}
BLANKS = name_blanks(NOISED_STATISTICS_SEGMENT)


@pytest.fixture(params=WORDS, ids=["scores", "stats"])
def kind(request):
    return request.param


@pytest.fixture
def join(meet):
    def meet_and_join(kind, limits=ALLOWED):
        lead = meet(words=WORDS[kind], limits=limits)
        assert lead.handshake() == ()
        return lead

    return meet_and_join


def list_bookings(lead):
    path = get_ledger_path(lead.home.state, "tiny-2026")
    return find_bookings(verify_ledger(path), RUN) if path.exists() else []


def get_own_noise(lead):
    return KeyAnnouncement.from_bytes(lead.announced[0], "").statistics_noise


def load_words(lead):
    """Return the segment as the layout describes it, and the signed words that the hospital masks."""
    segment = find_segment(lead.describe_attempt(*ask_what(lead)).layout)
    stored = load_quantized(FileStore(make_secrets_folder(RUN, VICTIM, lead.home.state)))
    return segment, stored.segments[NOISED_STATISTICS_SEGMENT][2].view(np.int64)


def ask_what(lead):
    kind = DESCRIBE if "purpose=describe" in lead.words else EVALUATE
    return kind, lead.directive(kind), lead.state if kind == EVALUATE else {}, 3


def find_segment(layout):
    return next(segment for segment in layout if segment.name == NOISED_STATISTICS_SEGMENT)


def test_a_draw_is_booked_with_both_numbers_before_its_words_leave(join, kind):
    lead = join(kind)
    assert read_error(lead.ask(kind)) is None
    (booking,) = list_bookings(lead)
    event = booking.entry.mechanism
    assert booking.state == "released"
    assert (event.sample_rate, event.steps, event.shares) == (1.0, 1, 3)  # four members, one of whom colludes
    assert event.noise_multiplier == get_own_noise(lead)
    assert event.local.noise_multiplier == pytest.approx(event.noise_multiplier / math.sqrt(3))


def test_the_words_hold_the_counts_and_one_share_of_the_noise(join, kind):
    lead = join(kind)
    assert read_error(lead.ask(kind)) is None
    segment, words = load_words(lead)
    assert segment.bits == 64
    assert segment.shares == 2  # three of four answer, and one colludes: a draw outlives one that is missing
    assert segment.share_std * math.sqrt(2) >= get_own_noise(lead)
    step = segment.entries[0].step
    places = {entry.name: words[place] * step for entry, place in segment.slices()}
    blanks = measure_blanks(places.pop(BLANKS), 1, segment.share_std, step)
    assert blanks.count == 256
    assert abs(blanks.variance_ratio - 1) < 5 * math.sqrt(2 / 256)
    assert all(np.abs(table).max() < 60 + 6 * segment.share_std for table in places.values())
    assert any((table < 0).any() for table in places.values())  # nothing is projected at the hospital
    assert any((words[place] % round(1 / min(step, 1))).any() for _, place in segment.slices())  # nor rounded to counts


def test_the_same_question_masks_the_same_draw_again_and_another_one_needs_a_booking_of_its_own(join, kind):
    lead = join(kind)
    assert read_error(lead.ask(kind, lead.directive(kind, exchange=1))) is None
    _, first = load_words(lead)
    assert read_error(lead.ask(kind, lead.directive(kind, exchange=2, repetition=1))) is None
    assert (load_words(lead)[1] == first).all()
    assert len(list_bookings(lead)) == 1
    fewer = lead.directive(kind, exchange=3, repetition=1, cohort=lead.cohort[:3])
    assert read_error(lead.ask(kind, fewer)) is None  # one who is missing costs no second draw
    assert len(list_bookings(lead)) == 1
    lead.renew_keys()
    second = read_error(lead.ask(kind, lead.directive(kind, exchange=4)))
    if kind == DESCRIBE:  # it used the whole epsilon of the run
        assert second is not None
        assert (load_words(lead)[1] == first).all()
    else:  # nothing was trained, so there is budget for a second draw
        assert second is None
        assert not (load_words(lead)[1] == first).all()
    assert len(list_bookings(lead)) == (1 if kind == DESCRIBE else 2)


def test_a_second_draw_within_the_budget_is_independent(meet):
    """A run that asked for little: twice its noise is booked, and two draws do not repeat a value."""
    lead = meet(words=(*DESCRIPTION, "privacy.noise_multiplier=200"), limits=ALLOWED)
    assert lead.handshake() == ()
    assert read_error(lead.ask(DESCRIBE, lead.directive(DESCRIBE, exchange=1))) is None
    segment, first = load_words(lead)
    lead.renew_keys()
    assert read_error(lead.ask(DESCRIBE, lead.directive(DESCRIBE, exchange=2))) is None
    _, second = load_words(lead)
    blank = next(place for entry, place in segment.slices() if entry.name == BLANKS)
    assert abs(np.corrcoef(first[blank], second[blank])[0, 1]) < 5 / 16
    assert (first[blank] != second[blank]).mean() > 0.9
    assert [booking.state for booking in list_bookings(lead)] == ["released", "released"]


def test_a_false_number_about_the_noise_is_refused_and_books_nothing(join, kind):
    lead = join(kind)
    honest = lead.describe_attempt(*ask_what(lead))
    before = lead.books()
    for lie in ("less noise", "more shares", "the same noise for more shares", "no noise"):
        layout = tuple(lie_about(segment, lie) for segment in honest.layout)
        assert_refused(lead, lead.ask(kind, descriptor=replace(honest, layout=layout)), before)
    assert not list_bookings(lead)
    assert read_error(lead.ask(kind, descriptor=honest)) is None


def lie_about(segment, lie):
    if segment.name != NOISED_STATISTICS_SEGMENT:
        return segment
    changed = LIES[lie](segment)
    if changed.kind == "model":
        entries = tuple(replace(entry, step=1.0) for entry in changed.entries)
        return replace(changed, kind="statistics", bits=64, entries=entries)
    layers = {entry.name: entry.length for entry in segment.entries}
    noise = changed.share_std * math.sqrt(changed.shares)
    return make_noised_segment(
        segment.name, segment.tower, layers, noise_std=noise, shares=changed.shares, bits=64, sites=changed.sites
    )


def test_the_noise_of_the_strictest_member_holds_for_all(join, kind):
    lead = join(kind)
    own = get_own_noise(lead)
    others = (lead.announce(site, towers, statistics_noise=3 * own) for site, towers in lead.towers.items())
    lead.announced = (lead.announced[0], *others)
    assert read_error(lead.ask(kind)) is None
    segment, _ = load_words(lead)
    sensitivity = 1.0 if kind == EVALUATE else math.sqrt(len([e for e in segment.entries if e.name != BLANKS]))
    assert segment.share_std == pytest.approx(3 * own * sensitivity / math.sqrt(2))


def test_a_strict_local_epsilon_demands_more_noise_from_all(join, kind):
    strict = get_own_noise(join(kind, "local_epsilon: 1, lifetime_local_epsilon: 60"))
    assert strict > 1.5 * get_own_noise(join(kind))


def test_stats_are_declined_where_the_policy_names_no_local_epsilon(meet):
    lead = meet(words=DESCRIPTION)
    assert lead.handshake() == (decline_reasons.SHARED_NOISE_NOT_ALLOWED,)
    assert not list_bookings(lead)


def test_after_a_crash_before_the_words_left_a_new_draw_is_made_under_the_same_booking(join, kind, monkeypatch):
    lead = join(kind)
    with monkeypatch.context() as patch:
        patch.setattr("clients.transport.contributors.save_upload", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            lead.ask(kind)
    _, lost = load_words(lead)
    assert read_error(lead.ask(kind, lead.directive(kind, exchange=2, repetition=1))) is None
    segment, words = load_words(lead)
    blank = next(place for entry, place in segment.slices() if entry.name == BLANKS)
    assert (words[blank] != lost[blank]).mean() > 0.9
    (booking,) = list_bookings(lead)
    assert booking.state == "released"
    assert json.loads(load_upload(FileStore(make_secrets_folder(RUN, VICTIM, lead.home.state))).release.dumps())
