"""A lie about any field that a hospital can derive gets the one refusal and books nothing; the lead's choices do not.

The messages reach the hospital as from its daemon; the lies are drawn at random.
"""

from dataclasses import replace

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from clients.merge import StateMerger
from fedhealth.privacy.accounting.booking import find_bookings
from fedhealth.privacy.accounting.ledger import verify_ledger
from fedhealth.privacy.accounting.ledger_folder import get_ledger_path
from fedhealth.protocol.messages import ABANDON, EVALUATE, GLOBAL, PURPOSES, SEALED, SECAGG, SIGN, TRAIN, UNMASK
from fedhealth.secagg.protocol.abandon import AbandonRequest
from fedhealth.secagg.protocol.context import AttemptContext
from fedhealth.secagg.protocol.messages import SignRequest, UnmaskRequest
from tests.clients.lying_lead import DECLINED, KINDS, RUN, LyingLead, assert_refused, read_error


class PowerCutError(BaseException):
    """The process is gone: no handler of it runs any more."""


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
VECTOR_NUMBERS = st.sampled_from(["round", "repetition"])


def lie_in_digest(name):
    return lambda descriptor, draw: {name: draw(st.binary(min_size=32, max_size=32))}


def list_other_purposes(descriptor):
    return st.sampled_from([purpose for purpose in PURPOSES.values() if purpose != descriptor.vector.purpose])


MEMBER_LIES = {
    "a member less": lambda d, draw: {"members": d.members[:-1]},
    "threshold": lambda d, draw: {"threshold": draw(st.integers(0, d.threshold - 1))},
    "run": lambda d, draw: {"run": "run99999"},
    **{name: lie_in_digest(name) for name in ("config_digest", "roster_digest", "model_digest", "training_digest")},
    "exchange": lambda d, draw: {"exchange": d.exchange + draw(st.integers(1, 2**40))},
    "attempt": lambda d, draw: {"attempt": d.attempt + draw(st.integers(1, 2**40))},
    "cohort": lambda d, draw: {"cohort": d.cohort[:-1]},
    "base": lambda d, draw: {"base": (*d.base[:-1], "stranger")},
    "history": lambda d, draw: {"history": draw(st.binary(min_size=32, max_size=32))},
    "vector": lambda d, draw: {"vector": replace(d.vector, **{draw(VECTOR_NUMBERS): draw(st.integers(5, 2**40))})},
    "purpose": lambda d, draw: {"vector": replace(d.vector, purpose=draw(list_other_purposes(d)))},
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
    "repetition": lambda d, draw: replace(d, repetition=draw(st.sampled_from([-1, 0, 2, 2**62]))),
    "missed": lambda d, draw: replace(d, missed=draw(st.sampled_from([("stranger",), ("member-01", "member-01")]))),
}
LIES = settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.mark.parametrize("kind", KINDS)
@LIES
@given(lie=st.sampled_from([*LAYOUT_LIES, *MEMBER_LIES]), data=st.data())
def test_a_false_field_of_secure_aggregation_gets_the_one_refusal_and_books_nothing(leads, kind, lie, data):
    lead = leads(kind)
    before, directive = lead.books(), lead.directive(kind)
    arrays = lead.state if kind in (TRAIN, EVALUATE) else {}
    honest = lead.describe_attempt(kind, directive, arrays, threshold=3)
    lies = (LAYOUT_LIES | MEMBER_LIES)[lie](honest, data.draw)
    assert_refused(lead, lead.ask(kind, directive, replace(honest, **lies)), before)


@pytest.mark.parametrize("kind", KINDS)
@LIES
@given(lie=st.sampled_from(list(DIRECTIVE_LIES)), consistent=st.booleans(), data=st.data())
def test_a_false_field_of_a_directive_gets_the_one_refusal_and_books_nothing(leads, kind, lie, consistent, data):
    lead = leads(kind)
    before, honest = lead.books(), lead.directive(kind)
    lying = DIRECTIVE_LIES[lie](honest, data.draw)
    arrays = lead.state if kind in (TRAIN, EVALUATE) else {}
    numbers = (lying.round, lying.exchange, lying.attempt, lying.repetition)
    told = lying if consistent and all(0 <= number <= 2**62 for number in numbers) else honest
    if lie in ("exchange", "attempt") and told is lying and 1 <= lying.exchange <= 10_000:
        told = honest  # a consistent later exchange or attempt is the lead's to choose
    descriptor = lead.describe_attempt(kind, told, arrays, threshold=3)
    assert_refused(lead, lead.ask(kind, lying, descriptor), before)


@pytest.mark.parametrize("kind", [TRAIN, EVALUATE])
@pytest.mark.parametrize("change", ["fewer", "more", "shape", "dtype"])
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
    messages = {
        ABANDON: AbandonRequest(ctx).to_bytes(),
        SIGN: SignRequest(ctx, lead.cohort).to_bytes(),
        UNMASK: UnmaskRequest(ctx, lead.cohort, (), (), ()).to_bytes(),
    }
    for kind, message in messages.items():
        content = {SECAGG: ConfigRecord({"message": message})}
        for change in FOLLOW_UP_LIES:
            assert_refused(lead, lead.send(kind, replace(directive, **change), content), before)
        assert_refused(lead, lead.send(kind, directive, {}), before)
    assert_refused(lead, lead.send(UNMASK, directive, content), before)  # nobody's envelopes are in it
    signing = {SECAGG: ConfigRecord({"message": messages[SIGN]})}
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


MALFORMED_FIELDS: dict[str, list[object]] = {
    "round": [float("inf"), 1.0, True, "1"],
    "repetition": [float("-inf"), float("nan")],
    "exchange": [float("inf")],
    "attempt": [float("inf")],
    "digest": ["0" * 2**20, b"0", 0],
    "cohort": [b"ab", ["x" * 2**20], [1]],
}


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field, all_ in MALFORMED_FIELDS.items() for value in all_]
)
def test_fields_of_other_types_and_sizes_get_the_one_refusal(leads, field, value):
    lead = leads(TRAIN)
    record = lead.directive(TRAIN).record()
    record[field] = value
    before, size = lead.books(), lead.home.audit.stat().st_size
    assert_refused(lead, lead.send(TRAIN, record, {}), before)
    assert lead.home.audit.stat().st_size - size < 2**14


@pytest.mark.parametrize("values", [np.zeros(2, "datetime64[s]"), np.array(["x"]), np.zeros(2, np.complex64)])
def test_arrays_that_are_no_numbers_get_the_one_refusal(leads, values):
    lead = leads(TRAIN)
    before, directive = lead.books(), lead.directive(TRAIN)
    train = lead.describe_attempt(TRAIN, directive, lead.state, threshold=3).to_bytes()
    content = {SECAGG: ConfigRecord({"train": train, "links": []}), GLOBAL: ArrayRecord({"a": Array(values)})}
    assert_refused(lead, lead.send(TRAIN, directive, content), before)


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
    lead.renew_keys()  # as after each restart of a hospital
    assert read_error(lead.ask(TRAIN, lead.directive(TRAIN, exchange=3))) is None
    assert states() == ["released"]


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
    scale = data.draw(st.sampled_from([0.0, 1.0, -3.0, 100.0]))
    arrays = {name: (array * np.float32(scale)).astype(np.float32) for name, array in lead.state.items()}
    cohort = tuple(sorted([lead.cohort[0], *others]))
    lead.open_without_victim(arrays)
    for kind, exchange in ((TRAIN, data.draw(st.integers(1, 5000))), (EVALUATE, 5001)):
        lead.renew_keys()
        directive = lead.directive(kind, exchange=exchange, cohort=cohort)
        reply = lead.ask(kind, directive, arrays=arrays, threshold=4)
        assert read_error(reply) is None
        assert SEALED in reply.content
