"""Links of the history: what they prove, and what colluders cannot make up."""

import os
from dataclasses import fields, replace

import pytest

from fedhealth.consortium.roster import Roster
from fedhealth.secagg.errors import ProtocolViolationError
from fedhealth.secagg.primitives import keys
from fedhealth.secagg.protocol.context import digest_attempt
from fedhealth.secagg.protocol.history import (
    HistoryLink,
    build_opening_label,
    compute_history_start,
    digest_shares,
    verify_link,
)
from tests.fedhealth.secagg.federation import CONFIG, RUN, Federation

N, THRESHOLD = 7, 5  # two colluders


@pytest.fixture(scope="module")
def federation():
    return Federation(N)


@pytest.fixture(scope="module")
def link(federation):
    federation.round(federation.plan(), federation.ids, federation.ids)
    return federation.server.build_link(os.urandom(32))


def check(federation, link):
    verify_link(link, RUN, CONFIG, federation.roster, federation.ids, THRESHOLD)


def sign(federation, link, sites):
    """Sign a link with the keys of some sites, as they would sign replies to UNMASK."""
    label = build_opening_label(digest_attempt(link.descriptor), link.survivors, link.segments, digest_shares(b""))
    made = [(site, digest_shares(b""), keys.sign_parts(federation.identities[site], *label)) for site in sites]
    return replace(link, signatures=tuple(made))


def test_an_opened_sum_has_a_link(federation, link):
    check(federation, link)
    assert HistoryLink.from_bytes(link.to_bytes()) == link
    check(federation, sign(federation, link, federation.ids[:THRESHOLD]))


def test_every_field_but_the_signatures_changes_the_head(link):
    changed = {
        "descriptor": replace(link.descriptor, attempt=9),
        "survivors": link.survivors[1:],
        "segments": link.segments[1:],
        "sum_digest": bytes(32),
        "next_digest": os.urandom(32),
    }
    assert {field.name for field in fields(link)} == {*changed, "signatures"}
    heads = {replace(link, **{name: value}).head for name, value in changed.items()}
    assert len(heads | {link.head, replace(link, descriptor=replace(link.descriptor, history=link.head)).head}) == 7
    assert replace(link, signatures=()).head == link.head


def test_colluders_alone_make_no_link(federation, link):
    few = federation.ids[:4]
    small = replace(link.descriptor, base=tuple(few), cohort=tuple(few), threshold=3)
    for lie in (
        sign(federation, link, few),
        sign(federation, replace(link, survivors=tuple(few)), few),
        sign(federation, replace(link, survivors=tuple(few), descriptor=small), few),
        replace(link, signatures=link.signatures[:4]),
        replace(link, descriptor=replace(link.descriptor, run="run-2")),
        replace(link, descriptor=replace(link.descriptor, config_digest=bytes(32))),
        replace(link, survivors=(*link.survivors, "stranger")),
    ):
        with pytest.raises(ProtocolViolationError, match=r"^R12"):
            check(federation, lie)


def test_a_sum_of_other_members_than_the_runs_is_no_link(federation, link):
    with pytest.raises(ProtocolViolationError, match=r"^R12"):
        verify_link(link, RUN, CONFIG, federation.roster, federation.ids[:-1], THRESHOLD)


def test_the_start_depends_on_all_that_sites_know(federation):
    starts = {
        compute_history_start(run, config, roster, initial)
        for run in ("a", "b")
        for config in (CONFIG, bytes(32))
        for roster in (federation.roster, Federation(3).roster)
        for initial in (bytes(32), CONFIG)
    }
    assert len(starts) == 16


def test_a_link_that_was_verified_proves_nothing_to_members_with_other_keys(federation, link):
    check(federation, link)
    strangers = Roster.from_keys({site: os.urandom(32) for site in federation.ids})
    same_name = replace(link, descriptor=replace(link.descriptor, roster_digest=strangers.digest))
    with pytest.raises(ProtocolViolationError, match="0 sites signed"):
        verify_link(same_name, RUN, CONFIG, strangers, federation.ids, THRESHOLD)
