"""A lead that lies to a hospital about bounds, cohorts, rounds and towers, at several moments and for every purpose."""

from dataclasses import replace

import pytest

from fedhealth.protocol.messages import DESCRIBE, EVALUATE, TRAIN
from fedhealth.secagg.primitives.layout import WEIGHT_ONE
from tests.clients.lying_lead import KINDS, PRIVATE, assert_refused, read_error

MOMENTS = [
    *((TRAIN, moment) for moment in ("first", "repeated", "after an answer")),
    (EVALUATE, "repeated"),
    (DESCRIBE, "after an answer"),
]


@pytest.mark.parametrize(("kind", "moment"), MOMENTS)
def test_a_bound_comes_from_the_configuration_and_never_from_the_message(meet, kind, moment):
    """Error or no error at a bound of the lead's told it counts, losses and largest changes bit by bit."""
    lead = meet(words=KINDS[kind])
    assert lead.handshake() == ()
    exchange, attempt = (1, 0) if moment == "first" else (1, 1) if moment == "repeated" else (2, 0)
    if moment != "first":
        assert read_error(lead.ask(kind)) is None
    before, directive = lead.books(), lead.directive(kind, exchange=exchange, attempt=attempt, repetition=1)
    arrays = lead.state if kind != DESCRIBE else {}
    honest = lead.describe_attempt(kind, directive, arrays, threshold=3)
    for bound, share in ((1e-6, 0.0), (1.0, 0.5), (1e9, 0.0)):
        layout = tuple(
            replace(s, clamp_share=share, entries=tuple(replace(e, bound=max(bound, e.step)) for e in s.entries))
            for s in honest.layout
        )
        assert_refused(lead, lead.ask(kind, directive, honest, layout=layout), before)
    assert read_error(lead.ask(kind, directive, honest)) is None


@pytest.mark.parametrize(("kind", "size"), [(TRAIN, 7), (TRAIN, 9), (EVALUATE, 8), (DESCRIBE, 7)])
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


def test_a_message_of_another_kind_than_the_runs_purpose_is_refused(leads):
    for kind, other in ((TRAIN, DESCRIBE), (DESCRIBE, TRAIN)):
        lead = leads(kind)
        before = lead.books()
        reply = lead.send(other, lead.directive(other), {})
        assert_refused(lead, reply, before)


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
