"""Nothing that the lead says is a parameter: a whole hospital derives, compares, and refuses alike.

Each hole is tried in several ways: other words of a job, other messages, other purposes, other moments.
"""

from dataclasses import replace

import numpy as np
import pytest
from flwr.app import ConfigRecord
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from clients.merge import StateMerger
from fedhealth.privacy.accounting.booking import find_bookings
from fedhealth.privacy.accounting.ledger import verify_ledger
from fedhealth.privacy.accounting.ledger_folder import get_ledger_path
from fedhealth.protocol.messages import DESCRIBE, EVALUATE, SEALED, SECAGG, SIGN, TRAIN, UNMASK
from fedhealth.secagg.primitives.layout import WEIGHT_ONE
from fedhealth.secagg.protocol.context import AttemptContext
from fedhealth.secagg.protocol.messages import SignRequest, UnmaskRequest
from tests.clients.lying_lead import DECLINED, MODEL, PRIVATE, RUN, LyingLead, read_error

DESCRIPTION = ("purpose=describe", "privacy=patient", "privacy.epsilon=2")
KINDS = {TRAIN: PRIVATE, EVALUATE: PRIVATE, DESCRIBE: DESCRIPTION}


class PowerCutError(BaseException):
    """The process is gone: no handler of it runs any more."""


@pytest.fixture(name="meet")
def meet_(tmp_path, good_hospitals):
    """Let a hospital meet a lead of this kind."""
    return lambda **about: LyingLead(tmp_path, good_hospitals, **about)


@pytest.fixture(name="leads", scope="module")
def leads_(tmp_path_factory, good_hospitals):
    """A hospital that has joined a run, for each kind of request; what it refuses changes nothing."""
    made = {}

    def get(kind):
        if kind not in made:
            made[kind] = LyingLead(tmp_path_factory.mktemp("lead"), good_hospitals, words=KINDS[kind])
            assert made[kind].handshake() == ()
        return made[kind]

    return get


def assert_refused(lead, reply, before):
    assert read_error(reply) == DECLINED
    assert lead.books() == before


# Row 2: a job's own words about colluders and honest sites.


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("secagg.colluders=0",), "the run assumes 0 colluding sites, this site requires 1"),
        (("secagg.colluders=-3",), "the run assumes -3 colluding sites, this site requires 1"),
        (("secagg.min_honest=1",), "the run opens sums of 1 honest sites, this site requires 2"),
        (("secagg.min_honest=-1",), "the run opens sums of -1 honest sites, this site requires 2"),
        (("secagg.min_sites=2",), "the run opens sums of 2 sites, this site requires 3"),
        (("secagg.min_sites=null",), "the run opens sums of 0 sites, this site requires 3"),
    ],
)
@pytest.mark.parametrize("kind", [TRAIN, DESCRIBE])
def test_words_of_a_job_do_not_weaken_what_the_site_decided(meet, kind, words, reason):
    lead = meet(words=(*KINDS[kind], *words))
    assert reason in lead.handshake()
    lead.announced = tuple(lead.announce(site, towers) for site, towers in lead.towers.items())
    assert_refused(lead, lead.ask(kind, threshold=2), {})


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ("colluders: 2", "the run assumes 1 colluding sites, this site requires 2"),
        ("min_honest: 3", "the run opens sums of 2 honest sites, this site requires 3"),
        ("min_sites: 4", "the run opens sums of 3 sites, this site requires 4"),
    ],
)
def test_a_site_that_is_stricter_declines_and_joins_a_run_that_is_as_strict(meet, limits, reason):
    assert meet(members=5, limits=limits).handshake() == (reason,)
    key, _, value = limits.partition(": ")
    lead = meet(members=5, limits=limits, words=(*PRIVATE, f"secagg.{key}={value}"))
    assert lead.handshake() == ()


def test_a_job_may_be_stricter_than_the_site(meet):
    lead = meet(members=5, words=(*PRIVATE, "secagg.colluders=2"))
    assert lead.handshake() == ()
    before = lead.books()
    for threshold in (3, 4 - 1):
        assert_refused(lead, lead.ask(TRAIN, threshold=threshold), before)
    assert read_error(lead.ask(TRAIN, threshold=4)) is None


def test_a_run_of_too_few_members_is_declined(meet):
    """Ten members, three of whom may collude: five sites make no sum that hides three honest ones."""
    assert meet(members=10, run=5).handshake() == ("the run's 5 sites are too few for this site's limits",)


# Rows 4 and 8, and all other fields that a site derives: one random lie in one message.


def lie_in_layout(change):
    def tell(descriptor, draw):
        at = draw(st.integers(0, len(descriptor.layout) - 1))
        segment = change(descriptor.layout[at], draw)
        return {"layout": (*descriptor.layout[:at], segment, *descriptor.layout[at + 1 :])}

    return tell


def change_entry(**choices):
    def change(segment, draw):
        at = draw(st.integers(0, len(segment.entries) - 1))
        entry = segment.entries[at]
        found = {name: draw(choice)(entry) for name, choice in choices.items()}
        return replace(segment, entries=(*segment.entries[:at], replace(entry, **found), *segment.entries[at + 1 :]))

    return change


FACTORS = st.sampled_from([1e-9, 0.5, 0.999, 1.001, 2.0])
LAYOUT_LIES = {
    "bound": lie_in_layout(change_entry(bound=FACTORS.map(lambda factor: lambda e: max(e.bound * factor, e.step)))),
    "length": lie_in_layout(change_entry(length=st.integers(1, 5).map(lambda more: lambda e: e.length + more))),
    "name": lie_in_layout(change_entry(name=st.just(lambda e: e.name + "x"))),
    "clamp_share": lie_in_layout(lambda s, draw: replace(s, clamp_share=draw(st.floats(1e-6, 0.99)))),
    "sites": lie_in_layout(lambda s, draw: replace(s, sites=s.sites + draw(st.integers(1, 50)))),
    "normaliser": lie_in_layout(lambda s, draw: replace(s, normaliser=s.normaliser + draw(st.integers(1, 2**40)))),
    "tower": lie_in_layout(lambda s, draw: replace(s, tower="tabular" if s.tower == "shared" else "shared")),
    "a segment more": lambda d, draw: {"layout": (*d.layout, replace(d.layout[0], name="more"))},
}
MEMBER_LIES = {
    "a member less": lambda d, draw: {"members": d.members[:-1]},
    "threshold": lambda d, draw: {"threshold": draw(st.integers(0, d.threshold - 1))},
    "run": lambda d, draw: {"run": "run99999"},
    **{
        name: lambda d, draw, name=name: {name: draw(st.binary(min_size=32, max_size=32))}
        for name in ("config_digest", "roster_digest", "model_digest", "training_digest")
    },
    "exchange": lambda d, draw: {"exchange": d.exchange + draw(st.integers(1, 2**40))},
    "attempt": lambda d, draw: {"attempt": d.attempt + draw(st.integers(1, 2**40))},
    "cohort": lambda d, draw: {"cohort": d.cohort[:-1]},
    "base": lambda d, draw: {"base": (*d.base[:-1], "stranger")},
}


def list_bad_cohorts(cohort):
    return [(), cohort[1:], (*cohort, "stranger"), cohort[::-1], (*cohort, cohort[-1])]


NUMBERS = st.sampled_from([-(2**62), -1, 0, 3, 4, 10_001, 2**62])
DIRECTIVE_LIES = {
    "run": lambda d, draw: replace(d, run=draw(st.sampled_from(["", "run12346", "x" * 500]))),
    "digest": lambda d, draw: replace(d, digest=draw(st.sampled_from(["", "0" * 64]))),
    "round": lambda d, draw: replace(d, round=d.round + draw(st.sampled_from([-(2**40), -5, 3, 50, 2**40]))),
    "exchange": lambda d, draw: replace(d, exchange=draw(NUMBERS)),
    "attempt": lambda d, draw: replace(d, attempt=draw(NUMBERS) or 1),
    "cohort": lambda d, draw: replace(d, cohort=draw(st.sampled_from(list_bad_cohorts(d.cohort)))),
    "missed": lambda d, draw: replace(d, missed=draw(st.sampled_from([("stranger",), ("member-01", "member-01")]))),
}
KIND = st.sampled_from(list(KINDS))
LIES = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@LIES
@given(kind=KIND, lie=st.sampled_from([*LAYOUT_LIES, *MEMBER_LIES]), data=st.data())
def test_a_false_field_of_secure_aggregation_gets_the_one_refusal_and_books_nothing(leads, kind, lie, data):
    lead = leads(kind)
    before, directive = lead.books(), lead.directive(kind)
    arrays = lead.state if kind in (TRAIN, EVALUATE) else {}
    honest = lead.describe_attempt(kind, directive, arrays, threshold=3)
    lies = (LAYOUT_LIES | MEMBER_LIES)[lie](honest, data.draw)
    assert_refused(lead, lead.ask(kind, directive, honest, **lies), before)


@LIES
@given(kind=KIND, lie=st.sampled_from(list(DIRECTIVE_LIES)), consistent=st.booleans(), data=st.data())
def test_a_false_field_of_a_directive_gets_the_one_refusal_and_books_nothing(leads, kind, lie, consistent, data):
    lead = leads(kind)
    before, honest = lead.books(), lead.directive(kind)
    lying = DIRECTIVE_LIES[lie](honest, data.draw)
    arrays = lead.state if kind in (TRAIN, EVALUATE) else {}
    told = lying if consistent and 0 <= lying.exchange < 2**63 and 0 <= lying.attempt < 2**62 else honest
    if lie in ("exchange", "attempt") and told is lying and 1 <= lying.exchange <= 10_000:
        told = honest  # a consistent later exchange or attempt is the lead's to choose
    descriptor = lead.describe_attempt(kind, told, arrays, threshold=3)
    assert_refused(lead, lead.ask(kind, lying, descriptor), before)


@LIES
@given(kind=st.sampled_from([TRAIN, EVALUATE]), change=st.sampled_from(["fewer", "more", "shape", "dtype"]))
def test_other_arrays_get_the_one_refusal_and_book_nothing(leads, kind, change):
    lead = leads(kind)
    name = sorted(lead.state)[0]
    arrays = {
        "fewer": {key: array for key, array in lead.state.items() if key != name},
        "more": lead.state | {"other": np.zeros(3, np.float32)},
        "shape": lead.state | {name: np.zeros((7, 7), np.float32)},
        "dtype": lead.state | {name: lead.state[name].astype(np.float64)},
    }[change]
    before = lead.books()
    assert_refused(lead, lead.ask(kind, arrays=arrays), before)


FOLLOW_UP_LIES = (
    {"run": "run99999"},
    {"digest": "0" * 64},
    {"cohort": ()},
    {"cohort": ("charite", "stranger")},
    {"exchange": 2},
    {"round": 3},
    {"round": -1},
    {"missed": ("stranger",)},
)


def test_a_false_follow_up_gets_the_one_refusal(meet):
    lead = meet()
    assert lead.handshake() == ()
    directive = lead.directive(TRAIN)
    descriptor = lead.describe_attempt(TRAIN, directive, lead.state, threshold=3)
    assert read_error(lead.ask(TRAIN, directive, descriptor)) is None
    before, ctx = lead.books(), AttemptContext.from_descriptor(descriptor).ctx
    messages = {SIGN: SignRequest(ctx, lead.cohort), UNMASK: UnmaskRequest(ctx, lead.cohort, (), (), ())}
    for kind, message in messages.items():
        content = {SECAGG: ConfigRecord({"message": message.to_bytes()})}
        for change in FOLLOW_UP_LIES:
            assert_refused(lead, lead.send(kind, replace(directive, **change), content), before)
        assert_refused(lead, lead.send(kind, directive, {}), before)
    assert_refused(lead, lead.send(UNMASK, directive, content), before)  # nobody's envelopes are in it
    signing = {SECAGG: ConfigRecord({"message": messages[SIGN].to_bytes()})}
    assert read_error(lead.send(SIGN, directive, signing)) is None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("protocol", [1, 3, "x"])
def test_malformed_directives_get_the_one_refusal(leads, kind, protocol):
    lead = leads(kind)
    record = lead.directive(kind).record()
    record["protocol"] = protocol
    before = lead.books()
    assert_refused(lead, lead.send(kind, record, {}), before)
    del record["round"]
    assert_refused(lead, lead.send(kind, record, {}), before)


def test_a_refusal_spends_no_open_booking(meet, monkeypatch):
    """A lie after a power cut costs the hospital nothing: the booking still pays for the round."""

    def cut(*_):
        raise PowerCutError

    lead = meet()
    assert lead.handshake() == ()
    with monkeypatch.context() as patch:
        patch.setattr(StateMerger, "save_round", cut)
        with pytest.raises(PowerCutError):
            lead.ask(TRAIN)

    def states():
        entries = verify_ledger(get_ledger_path(lead.home.state, "tiny-2026"))
        return [booking.state for booking in find_bookings(entries, RUN, "train")]

    open_ones = states()
    assert read_error(lead.ask(TRAIN, lead.directive(TRAIN, exchange=2), threshold=2)) == DECLINED
    assert states() == open_ones
    assert read_error(lead.ask(TRAIN, lead.directive(TRAIN, exchange=3))) is None
    assert states() == ["released"]


# What is the lead's to choose.


@settings(
    max_examples=6,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_a_cohort_and_a_model_of_the_leads_choice_are_answered(tmp_path_factory, good_hospitals, data):
    lead = LyingLead(tmp_path_factory.mktemp("choice"), good_hospitals, members=5)
    assert lead.handshake() == ()
    others = data.draw(st.lists(st.sampled_from(lead.cohort[1:]), min_size=3, max_size=4, unique=True))
    scale = data.draw(st.sampled_from([0.0, 1.0, -3.0, 1e6, 1e20]))
    arrays = {name: (array * np.float32(scale)).astype(np.float32) for name, array in lead.state.items()}
    cohort = tuple(sorted([lead.cohort[0], *others]))
    for kind, exchange in ((TRAIN, data.draw(st.integers(1, 5000))), (EVALUATE, 5001)):
        directive = lead.directive(kind, exchange=exchange, cohort=cohort)
        reply = lead.ask(kind, directive, arrays=arrays, threshold=4)
        assert read_error(reply) is None
        assert SEALED in reply.content


# Row 4: bounds of the message, at every moment of a run.


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("moment", ["first", "repeated", "after an answer"])
def test_a_bound_comes_from_the_configuration_and_never_from_the_message(leads, meet, kind, moment):
    """Error or no error at a bound of the lead's told it counts, losses and largest changes bit by bit."""
    lead = meet(words=KINDS[kind])
    assert lead.handshake() == ()
    exchange, attempt = (1, 0) if moment == "first" else (1, 1) if moment == "repeated" else (2, 0)
    if moment != "first":
        assert read_error(lead.ask(kind)) is None
    before, directive = lead.books(), lead.directive(kind, exchange=exchange, attempt=attempt)
    arrays = lead.state if kind != DESCRIBE else {}
    honest = lead.describe_attempt(kind, directive, arrays, threshold=3)
    for bound, share in ((1e-6, 0.0), (1.0, 0.5), (1e9, 0.0)):
        layout = tuple(
            replace(s, clamp_share=share, entries=tuple(replace(e, bound=max(bound, e.step)) for e in s.entries))
            for s in honest.layout
        )
        assert_refused(lead, lead.ask(kind, directive, honest, layout=layout), before)
    assert read_error(lead.ask(kind, directive, honest)) is None


# Row 5: a base cohort that holds all colluders.


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [7, 8, 9])
def test_a_base_of_some_members_does_not_lower_the_threshold(meet, kind, size):
    """Ten members: t is 7 for every base; one of seven would have had t = 5 and two openings of one vector."""
    lead = meet(members=10, words=KINDS[kind])
    assert lead.handshake() == ()
    before = lead.books()
    directive = lead.directive(kind, cohort=lead.cohort[:size])
    for threshold in (5, 6):
        assert_refused(lead, lead.ask(kind, directive, threshold=threshold, signed=True), before)
    assert read_error(lead.ask(kind, directive, threshold=7, signed=True)) is None


def test_a_run_of_seven_of_ten_members_assumes_three_colluders(meet):
    lead = meet(members=10, run=7)
    assert lead.handshake() == ()
    before = lead.books()
    assert_refused(lead, lead.ask(TRAIN, threshold=5, signed=True), before)
    assert read_error(lead.ask(TRAIN, threshold=6, signed=True)) is None


# Row 7: rounds beyond the run's, and orders beyond their time.


@pytest.mark.parametrize("number", [-1, 0, 3, 4, 2**40])
def test_rounds_beyond_the_configured_ones_are_refused(leads, number):
    lead = leads(TRAIN)
    before = lead.books()
    assert_refused(lead, lead.ask(TRAIN, lead.directive(TRAIN, number)), before)


@pytest.mark.parametrize("kind", [EVALUATE, DESCRIBE])
@pytest.mark.parametrize("number", [1, 3, 2**40])
def test_other_purposes_have_one_round_only(leads, kind, number):
    lead = leads(kind)
    before = lead.books()
    assert_refused(lead, lead.ask(kind, lead.directive(kind, number)), before)


@pytest.mark.parametrize("hours", [72.001, 24 * 365, 142_715_360 * 8766.0])
@pytest.mark.parametrize("kind", KINDS)
def test_an_order_that_is_valid_for_longer_than_a_run_may_take_is_refused(meet, hours, kind):
    lead = meet(hours=hours, words=KINDS[kind])
    (reason,) = lead.handshake()
    assert reason.endswith("hours, this site allows 72")
    lead.announced = tuple(lead.announce(site, towers) for site, towers in lead.towers.items())
    assert_refused(lead, lead.ask(kind), {})


def test_a_message_of_another_kind_than_the_runs_purpose_is_refused(leads):
    for kind, other in ((TRAIN, DESCRIBE), (DESCRIBE, TRAIN)):
        lead = leads(kind)
        before = lead.books()
        reply = lead.send(other, lead.directive(other), {})
        assert_refused(lead, reply, before)


# Row 8: towers of few owners.


@pytest.mark.parametrize("owners", [1, 4, 5])
def test_a_tower_of_fewer_owners_than_the_smallest_sum_is_refused(meet, owners):
    lead = meet(members=8, limits="min_sites: 6", words=(*PRIVATE, "secagg.min_sites=6"))
    for site in lead.sites[owners:]:
        lead.towers[site] = {"shared": WEIGHT_ONE}
    assert lead.handshake() == ()
    before, directive = lead.books(), lead.directive(TRAIN)
    whole = lead.describe_attempt(TRAIN, directive, lead.state, threshold=6)
    assert {segment.tower for segment in whole.layout} == {"shared", "tabular"}
    assert_refused(lead, lead.ask(TRAIN, directive, whole), before)
    kept = tuple(segment for segment in whole.layout if segment.tower == "shared")
    assert read_error(lead.ask(TRAIN, directive, whole, layout=kept)) is None


def test_a_tower_with_enough_owners_cannot_be_left_out(leads):
    """What the lead leaves out stays local: which towers travel follows from the announcements alone."""
    lead = leads(TRAIN)
    before, directive = lead.books(), lead.directive(TRAIN)
    whole = lead.describe_attempt(TRAIN, directive, lead.state, threshold=3)
    kept = tuple(segment for segment in whole.layout if segment.tower == "shared")
    assert_refused(lead, lead.ask(TRAIN, directive, whole, layout=kept), before)


# Row 11: rows of an embedding.

TEXT = (
    *(word for word in MODEL if not word.startswith("model.text")),
    "model/text=words",
    "model.text.hidden=16",
    "model.text.buckets=64",
    "model.text.max_length=16",
)
OPEN = "units: [none, patient]"
WORD_REASON = "rows of word embeddings may not leave here without differential privacy"


@pytest.mark.parametrize(
    "words", [("privacy=none",), ("privacy=none", "personalization=ditto"), ("privacy=none", "model.text.layers=1")]
)
def test_rows_of_words_do_not_travel_without_privacy(meet, words):
    lead = meet(model=tuple(w for w in TEXT if not w.startswith("model.text.layers")), words=words, limits=OPEN)
    assert lead.handshake() == (WORD_REASON,)
    lead.announced = tuple(lead.announce(site, towers) for site, towers in lead.towers.items())
    assert_refused(lead, lead.ask(TRAIN), {})


@pytest.mark.parametrize(
    ("words", "limits"),
    [
        (PRIVATE, OPEN),
        (("privacy=none", "personalization=fedtower", "personalization.tower=text"), OPEN),
        (("privacy=none",), f"{OPEN}, word_embeddings: true"),
        (("privacy=none", "purpose=describe"), OPEN),
    ],
)
def test_rows_of_words_travel_noised_or_stay_or_are_allowed_by_the_hospital(meet, words, limits):
    assert meet(model=TEXT, words=words, limits=limits).handshake() == ()
