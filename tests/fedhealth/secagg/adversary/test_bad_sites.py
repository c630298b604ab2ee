"""A site that lies or breaks: it is named, its vector is not in any sum, and the others go on where they can."""

import os
from dataclasses import replace

import numpy as np
import pytest

from fedhealth.secagg.client import client_protocol
from fedhealth.secagg.client.journal import load_secrets
from fedhealth.secagg.errors import ProtocolViolationError
from fedhealth.secagg.primitives import field, keys
from fedhealth.secagg.protocol import envelope
from fedhealth.secagg.protocol.envelope import DealtShares, commit_secret, deal_shares
from fedhealth.secagg.protocol.history import build_opening_label, digest_shares
from fedhealth.secagg.protocol.messages import MaskedUpload, UnmaskReply
from fedhealth.secagg.protocol.statement import MAX_NOTICE_BYTES, StateNotice
from tests.fedhealth.secagg.federation import Federation
from tests.fedhealth.secagg.test_protocol import assert_sums

LONG = bytes(MAX_NOTICE_BYTES)
BAD = "site-01"


def signed(federation: Federation, message, purpose: bytes) -> bytes:
    """Sign with the bad site's own identity: it is a member, after all."""
    return replace(message, signature=keys.sign_parts(federation.identities[BAD], purpose, message.body())).to_bytes()


def signed_answer(federation: Federation, answer: UnmaskReply) -> bytes:
    """Sign an answer to UNMASK, as an opening certificate shows it."""
    label = build_opening_label(answer.ctx, federation.ids, answer.segments, digest_shares(answer.shares))
    return replace(answer, signature=keys.sign_parts(federation.identities[BAD], *label)).to_bytes()


def collecting(n: int = 5):
    federation = Federation(n)
    plan = federation.plan()
    return federation, plan, federation.server.open_attempt(plan)


def fold_rest(federation, plan, descriptor):
    for site in federation.ids:
        if site not in federation.server._attempt.uploads and site != BAD:
            federation.server.add_upload(*federation.protect(site, descriptor, plan), site)


def sums(federation) -> list[bytes]:
    return [total.tobytes() for total in federation.server._attempt.sums.values()]


@pytest.mark.parametrize(
    ("field_name", "change", "problem"),
    [
        ("ctx", lambda u: bytes(32), "is for another attempt"),
        ("site", lambda u: "site-02", "sent an upload of site-02"),
        ("tags", lambda u: u.tags[1:], "tags .* have a wrong size"),
        ("tags", lambda u: (b"", *u.tags[1:]), "tags .* have a wrong size"),
        ("secret_commits", lambda u: u.secret_commits[1:], "secret_commits .* have a wrong size"),
        ("share_commits", lambda u: u.share_commits[1:], "share_commits .* have a wrong size"),
        ("envelopes", lambda u: u.envelopes[1:], "envelopes .* have a wrong size"),
        ("envelopes", lambda u: (u.envelopes[0] + LONG, *u.envelopes[1:]), "envelopes .* have a wrong size"),
        ("vectors", lambda u: u.vectors[1:], "vectors .* have a wrong size"),
        ("vectors", lambda u: (bytes(32), *u.vectors[1:]), "is not what it signed"),
    ],
)
def test_each_part_of_an_upload_is_checked_before_it_is_folded(field_name, change, problem):
    federation, plan, descriptor = collecting()
    head, vectors = federation.protect(BAD, descriptor, plan)
    found = MaskedUpload.from_bytes(head, BAD)
    before = sums(federation)
    forged = signed(federation, replace(found, **{field_name: change(found)}), b"upload")
    with pytest.raises(ProtocolViolationError, match=problem) as caught:
        federation.server.add_upload(forged, vectors, BAD)
    assert caught.value.blame == (BAD,)
    with pytest.raises(ProtocolViolationError, match=f"upload of {BAD} is not signed|{problem}"):
        federation.server.add_upload(replace(found, **{field_name: change(found)}).to_bytes(), vectors, BAD)
    assert sums(federation) == before
    federation.server.add_upload(head, vectors, BAD)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda v: v[:-1], "wrong size or type"),
        (lambda v: np.append(v, np.uint8(0)), "wrong size or type"),
        (lambda v: v.view(np.uint32), "wrong size or type"),
        (lambda v: v.reshape(-1, 4), "wrong size or type"),
        (lambda v: np.repeat(v, 2)[::2], "wrong size or type"),
        (lambda v: v ^ np.uint8(1), "is not what it signed"),
    ],
)
def test_each_vector_is_checked_before_it_is_folded(change, problem):
    federation, plan, descriptor = collecting()
    head, vectors = federation.protect(BAD, descriptor, plan)
    before = sums(federation)
    forged = vectors | {"shared-model": change(vectors["shared-model"])}
    for bad in (forged, {"shared-model": vectors["shared-model"]}, vectors | {"more": vectors["shared-model"]}):
        with pytest.raises(ProtocolViolationError, match=f"{problem}|other segments than it owns") as caught:
            federation.server.add_upload(head, bad, BAD)
        assert caught.value.blame == (BAD,)
    assert sums(federation) == before


def test_strangers_duplicates_and_damaged_uploads():
    federation, plan, descriptor = collecting()
    head, vectors = federation.protect(BAD, descriptor, plan)
    for bad in (head[:-1], head + b"\0", b"", os.urandom(300)):
        with pytest.raises(ProtocolViolationError, match=f"the upload from {BAD} is"):
            federation.server.add_upload(bad, vectors, BAD)
    federation.server.add_upload(head, vectors, BAD)
    before = sums(federation)
    with pytest.raises(ProtocolViolationError, match="uploaded twice"):
        federation.server.add_upload(head, vectors, BAD)
    for sender in ("site-02", "stranger"):
        with pytest.raises(ProtocolViolationError, match=f"{sender} sent an upload of {BAD}"):
            federation.server.add_upload(head, vectors, sender)
    assert sums(federation) == before


def test_a_member_outside_the_cohort_cannot_join_it():
    federation, plan, descriptor = collecting()
    head, vectors = federation.protect(BAD, descriptor, plan)
    federation.server.open_attempt(federation.plan(attempt=2, cohort=[site for site in federation.ids if site != BAD]))
    relabelled = replace(MaskedUpload.from_bytes(head, BAD), ctx=federation.server.context.ctx)
    with pytest.raises(ProtocolViolationError, match=f"{BAD} is not in the attempt's cohort"):
        federation.server.add_upload(signed(federation, relabelled, b"upload"), vectors, BAD)


def with_tags(federation, head: bytes, which) -> bytes:
    found = MaskedUpload.from_bytes(head, BAD)
    tags = tuple(os.urandom(16) if which(i) else tag for i, tag in enumerate(found.tags))
    return signed(federation, replace(found, tags=tags), b"upload")


def test_false_tags_of_a_newcomer_name_it():
    federation, plan, descriptor = collecting()
    fold_rest(federation, plan, descriptor)
    head, vectors = federation.protect(BAD, descriptor, plan)
    with pytest.raises(ProtocolViolationError, match=f"the tags of {BAD} differ") as caught:
        federation.server.add_upload(with_tags(federation, head, lambda i: True), vectors, BAD)
    assert caught.value.blame == (BAD,)
    federation.server.fix_survivors()
    federation.unmask([site for site in federation.ids if site != BAD])
    assert_sums(federation, federation.server.open_sums(), plan, [s for s in federation.ids if s != BAD])


def test_false_tags_of_the_first_upload_are_traced_back_to_it():
    federation, plan, descriptor = collecting()
    head, vectors = federation.protect(BAD, descriptor, plan)
    federation.server.add_upload(with_tags(federation, head, lambda i: True), vectors, BAD)
    for site in federation.ids:
        if site != BAD:
            with pytest.raises(ProtocolViolationError, match="the tags of") as caught:
                federation.server.add_upload(*federation.protect(site, descriptor, plan), site)
            assert BAD in caught.value.blame
    with pytest.raises(ProtocolViolationError, match="Start a new attempt without site-01") as caught:
        federation.server.fix_survivors()
    assert caught.value.blame == (BAD,)


def test_one_false_tag_names_the_pair():
    """Symmetric keys: nobody can tell which of the two lies."""
    federation, plan, descriptor = collecting()
    fold_rest(federation, plan, descriptor)
    head, vectors = federation.protect(BAD, descriptor, plan)
    with pytest.raises(ProtocolViolationError) as caught:
        federation.server.add_upload(with_tags(federation, head, lambda i: i == 0), vectors, BAD)
    assert caught.value.blame == (BAD, "site-00")


def redealt(monkeypatch, change):
    """Let the bad site deal otherwise than it should; everything else is its real code."""

    def lying(context, dealer, chains, notices) -> DealtShares:
        dealt = deal_shares(context, dealer, chains, notices)
        return change(context, dealt) if dealer == BAD else dealt

    monkeypatch.setattr(client_protocol, "deal_shares", lying)


def test_a_bad_envelope_names_its_dealer_and_the_others_finish(monkeypatch):
    def spoil(context, dealt):
        envelopes = list(dealt.envelopes)
        envelopes[2] = envelopes[2][:-1] + bytes([envelopes[2][-1] ^ 1])
        return replace(dealt, envelopes=tuple(envelopes))

    redealt(monkeypatch, spoil)
    federation, plan, descriptor = collecting()
    for site in federation.ids:
        federation.server.add_upload(*federation.protect(site, descriptor, plan), site)
    federation.server.fix_survivors()
    requests = federation.server.unmask_requests()
    with pytest.raises(ProtocolViolationError, match=f"R2: the envelope from {BAD} to site-02") as caught:
        federation.sites["site-02"].reply_unmask(requests["site-02"])
    assert caught.value.blame == (BAD,)
    federation.unmask([site for site in federation.ids if site != "site-02"])
    assert_sums(federation, federation.server.open_sums(), plan, federation.ids)


def test_shares_that_do_not_belong_together_name_their_dealer(monkeypatch):
    def spoil(context, dealt):
        wrong = bytes(len(dealt.secret_commits))
        return replace(dealt, secret_commits=wrong)

    redealt(monkeypatch, spoil)
    federation, plan, descriptor = collecting()
    for site in federation.ids:
        federation.server.add_upload(*federation.protect(site, descriptor, plan), site)
    federation.server.fix_survivors()
    federation.unmask(federation.ids)
    before = [total.tobytes() for total in federation.server._state.attempt.sums.values()]
    with pytest.raises(ProtocolViolationError, match=f"the shares that {BAD} dealt do not belong together") as caught:
        federation.server.open_sums()
    assert caught.value.blame == (BAD,)
    assert [total.tobytes() for total in federation.server._state.attempt.sums.values()] == before


def test_masks_other_than_those_dealt_yield_no_sum(monkeypatch):
    """A site that deals one key and masks with another is not told apart, but the count does not add up."""

    def spoil(context, dealt):
        first = next(iter(dealt.keys))
        return replace(dealt, keys=dealt.keys | {first: os.urandom(32)})

    redealt(monkeypatch, spoil)
    federation, plan, descriptor = collecting()
    for site in federation.ids:
        federation.server.add_upload(*federation.protect(site, descriptor, plan), site)
    federation.server.fix_survivors()
    federation.unmask(federation.ids)
    with pytest.raises(
        ProtocolViolationError, match="R9: segment shared-model does not open to 5 contributions"
    ) as caught:
        federation.server.open_sums()
    assert BAD in caught.value.blame


def test_a_share_outside_the_field_names_its_dealer(monkeypatch):
    """The dealer seals, and commits to, numbers beyond the modulus: found at the opening."""
    federation, plan, descriptor = collecting()

    def spoil(context, dealt):
        chains = dict(load_secrets(federation.secrets[BAD]).chains)
        shares = bytes([255]) * field.ELEMENT_BYTES * len(dealt.keys)
        own = next(member.statement for member in context.members if member.site == BAD)
        plain, ctx = shares + StateNotice(own, b"").to_bytes(), context.ctx
        return replace(
            dealt,
            share_commits=tuple(envelope.commit_shares(ctx, BAD, site, shares) for site in context.cohort),
            envelopes=tuple(envelope._seal_shares(chains[site], ctx, BAD, site, plain) for site in context.cohort),
        )

    redealt(monkeypatch, spoil)
    for site in federation.ids:
        federation.server.add_upload(*federation.protect(site, descriptor, plan), site)
    federation.server.fix_survivors()
    federation.unmask(federation.ids)
    with pytest.raises(ProtocolViolationError, match=f"the shares that {BAD} dealt do not belong together"):
        federation.server.open_sums()


def unmasking(n: int = 5):
    federation = Federation(n)
    plan = federation.plan()
    federation.collect(plan, federation.ids)
    federation.server.fix_survivors()
    answer = federation.sites[BAD].reply_unmask(federation.server.unmask_requests()[BAD])
    return federation, plan, UnmaskReply.from_bytes(answer, BAD)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"ctx": bytes(32)}, "is not for this attempt"),
        ({"site": "site-02"}, "is not for this attempt"),
        ({"segments": ("shared-model",)}, "opens"),
        ({"segments": ()}, "opens"),
        ({"shares": b""}, "wrong number of shares"),
        ({"shares": 0}, "a false share of site-00"),
        ({"shares": 2 * field.ELEMENT_BYTES}, "a false share of site-02"),
    ],
    ids=str,
)
def test_a_bad_answer_names_its_sender_and_the_others_finish(change, problem):
    federation, plan, good = unmasking()
    if isinstance(change.get("shares"), int):
        spoiled = bytearray(good.shares)
        spoiled[change["shares"] + field.ELEMENT_BYTES - 1] ^= 1
        change = {"shares": bytes(spoiled)}
    with pytest.raises(ProtocolViolationError, match=problem) as caught:
        federation.server.add_unmask_reply(signed_answer(federation, replace(good, **change)), BAD)
    assert caught.value.blame == (BAD,)
    unsigned = replace(good, **change).to_bytes()
    with pytest.raises(ProtocolViolationError, match=f"not signed by its identity|{problem}"):
        federation.server.add_unmask_reply(unsigned, BAD)
    for site in federation.ids:
        if site != BAD:
            federation.server.add_unmask_reply(
                federation.sites[site].reply_unmask(federation.server.unmask_requests()[site]), site
            )
    assert_sums(federation, federation.server.open_sums(), plan, federation.ids)


def test_replies_and_signatures_from_others_are_refused():
    federation, _, good = unmasking()
    for bad in (good.to_bytes()[:-1], good.to_bytes() + b"\0", b""):
        with pytest.raises(ProtocolViolationError, match=f"the unmask reply from {BAD} is"):
            federation.server.add_unmask_reply(bad, BAD)
    with pytest.raises(ProtocolViolationError, match="the answer from site-02 is not for this attempt"):
        federation.server.add_unmask_reply(good.to_bytes(), "site-02")


def test_an_answer_without_its_senders_signature_is_refused():
    federation, _, good = unmasking()
    with pytest.raises(ProtocolViolationError, match=f"the answer from {BAD} is not signed by its identity") as caught:
        federation.server.add_unmask_reply(replace(good, signature=bytes(64)).to_bytes(), BAD)
    assert caught.value.blame == (BAD,)


def test_bad_endorsements_name_their_sender():
    federation = Federation(4)
    federation.collect(federation.plan(signed=True), federation.ids)
    federation.server.fix_survivors()
    good = federation.sites[BAD].sign_survivors(federation.server.sign_request())
    with pytest.raises(ProtocolViolationError, match="the endorsement from site-02 is not for this attempt"):
        federation.server.add_signature(good, "site-02")
    flipped = good[:-1] + bytes([good[-1] ^ 1])
    with pytest.raises(ProtocolViolationError, match=f"the endorsement from {BAD} is not signed") as caught:
        federation.server.add_signature(flipped, BAD)
    assert caught.value.blame == (BAD,)
    assert not federation.server.add_signature(good, BAD)


def test_announcements_with_an_old_epoch_are_refused_by_the_lead():
    federation = Federation(3)
    old = federation.server.members[BAD].to_bytes()
    assert federation.server.register(old, BAD).site == BAD
    federation.announce()
    with pytest.raises(ProtocolViolationError, match="announced an old epoch"):
        federation.server.register(old, BAD)


def test_a_secret_commitment_binds_its_place():
    ctx, secret = os.urandom(32), os.urandom(32)
    seen = {commit_secret(ctx, dealer, index, secret) for dealer in ("a", "b") for index in (0, 1)}
    assert len(seen) == 4
