"""A lead that lies, against the sites' real code: whatever it tries, it is refused."""

import hashlib
import os
from dataclasses import replace

import pytest

from fedhealth.secagg.client.journal import load_secrets
from fedhealth.secagg.errors import ProtocolViolationError
from fedhealth.secagg.primitives import keys
from fedhealth.secagg.primitives.layout import WEIGHT_ONE
from fedhealth.secagg.primitives.packing import PackedWords
from fedhealth.secagg.protocol.context import AttemptContext
from fedhealth.secagg.protocol.messages import AttemptDescriptor, MaskedUpload, SignRequest, UnmaskReply, UnmaskRequest
from fedhealth.secagg.protocol.threshold import ThresholdPolicy
from fedhealth.secagg.protocol.vector_name import VectorName
from tests.fedhealth.secagg.federation import TRAINING, Federation, model_digest, name

VICTIM = "site-00"


def refused(problem: str):
    return pytest.raises(ProtocolViolationError, match=problem)


def honest(federation: Federation, exchange: int = 1, attempt: int = 1, **changes) -> AttemptDescriptor:
    return AttemptDescriptor.from_bytes(federation.server.open_attempt(federation.plan(exchange, attempt, **changes)))


def show(federation: Federation, site: str, descriptor: AttemptDescriptor, **own):
    """Send a descriptor; the site computes the digests of what really arrived."""
    model, training = own.get("model", descriptor.model_digest), own.get("training", descriptor.training_digest)
    layout = own.get("layout", descriptor.layout)
    return federation.sites[site].accept(descriptor.to_bytes(), model, training, lambda members: layout)


def masked(federation: Federation, site: str, context: AttemptContext) -> tuple[bytes, dict[str, PackedWords]]:
    session = federation.sites[site]
    return session.mask_upload(context, session.quantize(context, federation.vectors(site, context.layout)))


def opened_round(federation: Federation, exchange: int = 1, without: int = 0) -> dict[str, bytes]:
    """Bring an exchange up to its unmask requests."""
    plan = federation.plan(exchange)
    federation.collect(plan, federation.ids[: federation.n - without])
    federation.server.fix_survivors()
    request = federation.server.sign_request()
    for site in federation.ids[: federation.n - without] if request else ():
        federation.server.add_signature(federation.sites[site].sign_survivors(request), site)
    return federation.server.unmask_requests()


def test_a_small_cohort_shown_to_one_site():
    federation = Federation(6)
    descriptor = honest(federation)
    few = (VICTIM, "site-01", "site-02")
    with refused("R8: threshold 3 is below 5"):
        show(federation, VICTIM, replace(descriptor, base=few, cohort=few, threshold=3))
    with refused("R8: a cohort of 3 cannot reach the threshold 5"):
        show(federation, VICTIM, replace(descriptor, cohort=few))
    with refused("R8: threshold 3 is below 5"):
        show(federation, VICTIM, replace(descriptor, cohort=few, threshold=3))


def test_a_cohort_that_differs_from_the_others_leaves_nothing_to_open():
    """The largest lie that a site accepts: its masks, tags and envelopes then fit nobody's."""
    federation = Federation(6)
    descriptor = honest(federation)
    split = replace(descriptor, cohort=descriptor.cohort[:5])
    contexts = {site: show(federation, site, split if site == VICTIM else descriptor) for site in federation.ids}
    assert_strangers(federation, contexts)


def test_a_model_crafted_for_one_site():
    federation = Federation(5)
    descriptor = honest(federation)
    crafted = os.urandom(32)
    with refused("descriptor's model_digest differs from this site's own"):
        show(federation, VICTIM, descriptor, model=crafted)
    own = replace(descriptor, model_digest=crafted)
    contexts = {site: show(federation, site, own if site == VICTIM else descriptor) for site in federation.ids}
    assert_strangers(federation, contexts)


def assert_strangers(federation: Federation, contexts: dict[str, AttemptContext]) -> None:
    """The victim's upload shares no tag and no envelope key with anybody's, and the lead cannot relabel it."""
    federation.server._attempt = replace(federation.server._attempt, context=contexts["site-01"])
    for site in federation.ids[1:]:
        federation.server.add_upload(*masked(federation, site, contexts[site]), site)
    head, vectors = masked(federation, VICTIM, contexts[VICTIM])
    with refused(f"the upload of {VICTIM} is for another attempt"):
        federation.server.add_upload(head, vectors, VICTIM)
    relabelled = replace(MaskedUpload.from_bytes(head, VICTIM), ctx=contexts["site-01"].ctx)
    with refused(f"the upload of {VICTIM} is not signed by its identity"):
        federation.server.add_upload(relabelled.to_bytes(), vectors, VICTIM)
    for other in federation.server._attempt.uploads.values():
        assert not set(other.tags) & set(relabelled.tags)
    others = federation.server._attempt.uploads
    forged = UnmaskRequest(
        ctx=contexts["site-01"].ctx,
        survivors=tuple(federation.ids),
        signatures=(),
        sealed=tuple({**others, VICTIM: relabelled}[site].envelopes[1] for site in federation.ids),
        commits=tuple({**others, VICTIM: relabelled}[site].share_commits[1] for site in federation.ids),
    )
    with refused(f"R2: the envelope from {VICTIM} to site-01"):
        federation.sites["site-01"].reply_unmask(forged.to_bytes())


CHANGES = {
    "run": "run-2",
    "config_digest": bytes(32),
    "roster_digest": bytes(32),
    "model_digest": bytes(32),
    "training_digest": bytes(32),
}


@pytest.mark.parametrize("field", CHANGES)
def test_what_the_site_knows_itself_cannot_be_claimed_otherwise(field):
    federation = Federation(3)
    descriptor = honest(federation)
    with refused(f"the descriptor's {field} differs from this site's own"):
        show(
            federation,
            VICTIM,
            replace(descriptor, **{field: CHANGES[field]}),
            model=model_digest(1),
            training=TRAINING,
        )


@pytest.mark.parametrize(
    "changes",
    [
        {"exchange": 2},
        {"attempt": 2},
        {"threshold": 5},
        {"signed": True},
        {"history": b"h" * 32},
        {"vector": VectorName("evaluate", 1, 1)},
        {"cohort": 5},
        {"base": 5, "cohort": 5},
    ],
    ids=str,
)
def test_what_only_the_lead_knows_must_be_the_same_for_all(changes):
    """Each of these is a descriptor that a site may accept, but not beside the others' descriptor."""
    federation = Federation(6)
    descriptor = honest(federation)
    lie = {
        field: getattr(descriptor, field)[:value] if field in ("cohort", "base") else value
        for field, value in changes.items()
    }
    if lie.get("threshold") == descriptor.threshold:
        lie["threshold"] += 1
    lying = replace(descriptor, **lie)
    contexts = {site: show(federation, site, lying if site == VICTIM else descriptor) for site in federation.ids}
    assert contexts[VICTIM].ctx != contexts["site-01"].ctx
    tags = {}
    for site in federation.ids:
        head, _ = masked(federation, site, contexts[site])
        tags[site] = MaskedUpload.from_bytes(head, site).tags
    assert tags["site-01"][1] == tags["site-02"][1]  # the pair of site-01 and site-02
    for site in federation.ids[1:]:
        assert not set(tags[VICTIM]) & set(tags[site])


LAYOUT_LIES = {
    "bound": lambda model, counts: (
        replace(model, entries=(replace(model.entries[0], bound=1e-6), *model.entries[1:])),
    ),
    "clamp_share": lambda model, counts: (replace(model, clamp_share=0.01),),
    "bits": lambda model, counts: (replace(model, bits=20), counts),
    "normaliser": lambda model, counts: (replace(model, normaliser=2 * model.normaliser), counts),
    "sites": lambda model, counts: (replace(model, sites=60), counts),
    "name": lambda model, counts: (replace(model, name="other"), counts),
    "length": lambda model, counts: (replace(model, entries=model.entries[:1]), counts),
    "step": lambda model, counts: (model, replace(counts, entries=(replace(counts.entries[0], step=0.5),))),
    "a segment less": lambda model, counts: (model,),
    "order": lambda model, counts: (counts, model),
}


@pytest.mark.parametrize("lie", LAYOUT_LIES)
def test_a_layout_that_the_site_did_not_derive(lie):
    federation = Federation(6)
    descriptor = honest(federation)
    lying = replace(descriptor, layout=LAYOUT_LIES[lie](*descriptor.layout))
    before = federation.journals[VICTIM].get("journal")
    with refused("R8: the layout differs from the one that this site derived"):
        show(federation, VICTIM, lying, layout=descriptor.layout)
    assert federation.journals[VICTIM].get("journal") == before
    show(federation, VICTIM, descriptor, layout=descriptor.layout)


@pytest.mark.parametrize("base", [7, 8, 9])
def test_a_base_cohort_does_not_lower_the_threshold(base):
    """Ten members, three of them collude: with c of a base of seven, two questions about one vector could be opened."""
    federation = Federation(10)
    descriptor = honest(federation)
    few = descriptor.base[:base]
    for threshold in (descriptor.threshold - 2, descriptor.threshold - 1):
        with refused(f"R8: threshold {threshold} is below 7"):
            show(federation, VICTIM, replace(descriptor, base=few, cohort=few, threshold=threshold))
    show(federation, VICTIM, replace(descriptor, base=few, cohort=few, signed=True))


@pytest.mark.parametrize("purpose", ["model", "statistics"])
def test_a_tower_of_fewer_owners_than_the_smallest_sum(purpose):
    towers = {name(i): {"shared": WEIGHT_ONE} | ({"labs": WEIGHT_ONE} if i < 4 else {}) for i in range(8)}
    federation = Federation(8, towers=towers, policy=ThresholdPolicy(colluders=1, min_honest=2, min_sites=6))
    plan = federation.plan(layout=(federation.segment(), federation.segment("labs", purpose)))
    descriptor = AttemptDescriptor.from_bytes(federation.server.open_attempt(plan))
    assert [segment.tower for segment in descriptor.layout] == ["shared"]
    greedy = replace(descriptor, layout=plan.layout)
    with refused("R8: the layout differs"):
        show(federation, VICTIM, greedy, layout=plan.layout)


def test_a_run_of_some_members_announces_no_others():
    federation = Federation(8)
    descriptor = honest(federation)
    session = federation.sites[VICTIM]
    session.me = replace(session.me, members=tuple(federation.ids[:7]))
    with refused("R8: the members include sites that are not in the run"):
        show(federation, VICTIM, descriptor)


@pytest.mark.parametrize(
    "changes",
    [
        {"base": ("site-00", "site-01", "site-02", "site-03")},
        {"threshold": 5},
        {"model_digest": bytes(32)},
        {"training_digest": bytes(32)},
    ],
    ids=str,
)
def test_a_second_attempt_with_another_base(changes):
    federation = Federation(5)
    descriptor = honest(federation)
    show(federation, VICTIM, descriptor)
    shrunken = replace(descriptor, attempt=2, **changes)
    shrunken = replace(shrunken, cohort=tuple(s for s in shrunken.cohort if s in shrunken.base))
    with refused("R5"):
        show(federation, VICTIM, shrunken)


def test_a_second_attempt_below_the_first_threshold():
    federation = Federation(5)
    descriptor = honest(federation)
    show(federation, VICTIM, descriptor)
    with refused("R8"):
        show(federation, VICTIM, replace(descriptor, attempt=2, cohort=descriptor.cohort[:3], threshold=3))


def test_the_difference_of_two_attempts():
    """Open attempt 1 with everybody, attempt 2 without the victim: those who answered once answer no more."""
    federation = Federation(5)
    requests = opened_round(federation)
    first = federation.server.context.descriptor
    again = replace(first, attempt=2, cohort=first.cohort[1:])
    for site in federation.ids[:4]:
        federation.sites[site].reply_unmask(requests[site])
    for site in federation.ids[1:4]:
        with refused("R5: exchange 1 was already answered"):
            show(federation, site, again)
    # The one that has not answered may move on, but then leaves the first attempt for good.
    show(federation, "site-04", again)
    with refused("R4: the request is about another attempt"):
        federation.sites["site-04"].reply_unmask(requests["site-04"])


def test_a_late_upload_after_its_pair_masks_were_opened():
    """The victim's upload arrives after the others opened the masks they share with it: its own mask stays closed."""
    federation = Federation(6)
    plan = federation.plan()
    descriptor = federation.server.open_attempt(plan)
    uploads = {site: federation.protect(site, descriptor, plan) for site in federation.ids}
    for site in federation.ids[1:]:
        federation.server.add_upload(*uploads[site], site)
    survivors = federation.server.fix_survivors()
    for site in survivors:
        federation.server.add_unmask_reply(
            federation.sites[site].reply_unmask(federation.server.unmask_requests()[site]), site
        )
    federation.server.open_sums()
    with refused("R6: no attempt is collecting uploads"):
        federation.server.add_upload(*uploads[VICTIM], VICTIM)
    heads = {site: MaskedUpload.from_bytes(head, site) for site, (head, _) in uploads.items()}
    for at, site in enumerate(federation.ids):
        request = UnmaskRequest(
            federation.server.context.ctx,
            tuple(federation.ids),
            (),
            tuple(heads[dealer].envelopes[at] for dealer in federation.ids),
            tuple(heads[dealer].share_commits[at] for dealer in federation.ids),
        )
        if site != VICTIM:
            with refused("R3: another list of survivors was already answered"):
                federation.sites[site].reply_unmask(request.to_bytes())


def test_an_upload_after_answering():
    federation = Federation(4)
    requests = opened_round(federation)
    federation.sites[VICTIM].reply_unmask(requests[VICTIM])
    again = replace(federation.server.context.descriptor, attempt=2)
    with refused("R5: exchange 1 was already answered"):
        show(federation, VICTIM, again)


def test_a_second_list_of_survivors():
    federation = Federation(6)
    request = UnmaskRequest.from_bytes(opened_round(federation)[VICTIM])
    answer = federation.sites[VICTIM].reply_unmask(request.to_bytes())
    fewer = replace(request, survivors=request.survivors[:5], sealed=request.sealed[:5], commits=request.commits[:5])
    with refused("R3: another list of survivors was already answered"):
        federation.sites[VICTIM].reply_unmask(fewer.to_bytes())
    assert federation.sites[VICTIM].reply_unmask(request.to_bytes()) == answer


def test_needed_signatures_switched_off():
    federation = Federation(7)
    with refused("R8: this cohort needs signed survivor lists"):
        show(federation, VICTIM, replace(honest(federation), signed=False))


def test_a_second_list_to_sign_or_another_one_to_unmask():
    federation = Federation(7)
    plan = federation.plan()
    federation.collect(plan, federation.ids)
    survivors = federation.server.fix_survivors()
    ctx = federation.server.context.ctx
    federation.sites[VICTIM].sign_survivors(federation.server.sign_request())
    with refused("R3: another list of survivors was already signed"):
        federation.sites[VICTIM].sign_survivors(SignRequest(ctx, survivors[:6]).to_bytes())
    with refused("R3: another list of survivors was already signed"):
        federation.sites[VICTIM].reply_unmask(UnmaskRequest(ctx, survivors[:6], (), (), ()).to_bytes())
    with refused("R1: 0 survivors signed the list, 5 must"):
        federation.sites[VICTIM].reply_unmask(UnmaskRequest(ctx, survivors, (), (), ()).to_bytes())


@pytest.mark.parametrize(
    "survivors",
    [
        ("site-00", "site-01", "site-02", "site-03", "stranger"),
        ("site-00", "site-00", "site-01", "site-02", "site-03"),
        ("site-00", "site-02", "site-01", "site-03"),
        ("site-00", "site-01", "site-02", "Site-03"),
        ("site-01", "site-02", "site-03", "site-04"),
        ("site-00", "site-01", "site-02"),
        (),
    ],
    ids=str,
)
def test_strange_lists_of_survivors(survivors):
    federation = Federation(5)
    opened_round(federation)
    ctx = federation.server.context.ctx
    for message in (SignRequest(ctx, survivors), UnmaskRequest(ctx, survivors, (), (), ())):
        step = (
            federation.sites[VICTIM].sign_survivors
            if isinstance(message, SignRequest)
            else federation.sites[VICTIM].reply_unmask
        )
        with refused("R1|site id"):
            step(message.to_bytes())


@pytest.mark.parametrize("field", ["base", "cohort"])
@pytest.mark.parametrize("extra", ["stranger", "site-03", "SITE-03", "site-3"])
def test_strange_cohorts(field, extra):
    federation = Federation(4)
    descriptor = honest(federation)
    with refused("R8|site id"):
        show(federation, VICTIM, replace(descriptor, **{field: (*getattr(descriptor, field), extra)}))


def test_a_tower_that_one_site_owns():
    towers = {name(i): {"shared": WEIGHT_ONE} | ({"labs": WEIGHT_ONE} if i == 0 else {}) for i in range(5)}
    federation = Federation(5, towers=towers)
    descriptor = honest(federation)
    greedy = replace(descriptor, layout=(*descriptor.layout, federation.segment("labs")))
    with refused("R8: the layout differs"):
        show(federation, VICTIM, greedy)


def test_a_tower_whose_owners_are_left_out_of_the_survivors_stays_closed():
    towers = {name(i): {"shared": WEIGHT_ONE} | ({"labs": WEIGHT_ONE} if i < 6 else {}) for i in range(10)}
    federation = Federation(10, towers=towers)
    layout = (federation.segment(), federation.segment("labs"))
    plan = federation.plan(layout=layout)
    federation.collect(plan, federation.ids)
    survivors = tuple(federation.ids[1:])  # pretends that one of the six owners is gone
    request = SignRequest(federation.server.context.ctx, survivors).to_bytes()
    attempt = federation.server._attempt
    chosen = {site: upload for site, upload in attempt.uploads.items() if site in survivors}
    federation.server._attempt = replace(attempt, uploads=chosen)
    federation.server.fix_survivors()
    for site in survivors:
        federation.server.add_signature(federation.sites[site].sign_survivors(request), site)
    answer = UnmaskReply.from_bytes(
        federation.sites["site-01"].reply_unmask(federation.server.unmask_requests()["site-01"]), "site-01"
    )
    assert answer.segments == ("shared-model",)


def test_replaced_keys():
    federation = Federation(4)
    plan = federation.plan()
    federation.round(plan, federation.ids, federation.ids)
    descriptor = honest(federation, 2)
    mallory = keys.derive_public_key(keys.generate_private_key())
    known = federation.server.members["site-01"]
    for changes in ({"key": mallory}, {"key": mallory, "epoch": known.epoch + 1}):
        fake = replace(known, **changes).to_bytes()
        with refused("the announcement of site-01 is not signed by its approved identity"):
            show(
                federation, VICTIM, replace(descriptor, members=(descriptor.members[0], fake, *descriptor.members[2:]))
            )


def test_an_old_announcement_played_again():
    federation = Federation(4)
    old = honest(federation)
    federation.announce()
    federation.round(federation.plan(2), federation.ids, federation.ids)
    descriptor = honest(federation, 3)
    for at, site in enumerate(federation.ids):
        members = (*descriptor.members[:at], old.members[at], *descriptor.members[at + 1 :])
        with refused(f"R8: the announcement of {site} is an old or a replaced one"):
            show(federation, VICTIM, replace(descriptor, members=members))


def test_members_dropped_from_the_announcements_within_an_epoch():
    federation = Federation(4)
    federation.round(federation.plan(), federation.ids, federation.ids)
    descriptor = honest(federation, 2)
    fewer = {"members": descriptor.members[:3], "base": descriptor.base[:3], "cohort": descriptor.cohort[:3]}
    with refused("R8: the members' announcements changed within an epoch"):
        show(federation, VICTIM, replace(descriptor, **fewer))


def test_a_replayed_round():
    federation = Federation(4)
    opened_round(federation)
    first = federation.server.context.descriptor
    federation.sites[VICTIM].reply_unmask(federation.server.unmask_requests()[VICTIM])
    with refused("R5: exchange 1 was already answered"):
        show(federation, VICTIM, first)
    show(federation, VICTIM, honest(federation, 3))
    with refused("R7: exchange 1 is past"):
        show(federation, VICTIM, replace(first, attempt=9))
    with refused("R4: attempt 1 of exchange 3 is burned"):
        show(federation, VICTIM, federation.server.context.descriptor)
    with refused("R7: exchange 10001 is beyond the run's end"):
        show(federation, VICTIM, replace(first, exchange=10001))


def test_the_same_model_over_and_over():
    federation = Federation(3)
    same = hashlib.sha256(b"same").digest()
    for exchange in (1, 2, 3):
        show(federation, VICTIM, honest(federation, exchange, model_digest=same))
        federation.announce()
    with refused("R7: this model was already trained 3 times"):
        show(federation, VICTIM, honest(federation, 4, model_digest=same))


def test_a_request_without_an_attempt():
    federation = Federation(3)
    for step, message in (
        (federation.sites[VICTIM].sign_survivors, SignRequest(bytes(32), tuple(federation.ids))),
        (federation.sites[VICTIM].reply_unmask, UnmaskRequest(bytes(32), tuple(federation.ids), (), (), ())),
    ):
        with refused("R4: this site takes part in no attempt"):
            step(message.to_bytes())


def test_a_refused_request_burns_nothing():
    federation = Federation(5)
    request = UnmaskRequest.from_bytes(opened_round(federation)[VICTIM])
    before = federation.journals[VICTIM].get("journal"), load_secrets(federation.secrets[VICTIM])
    flipped = (bytes(len(request.sealed[0])), *request.sealed[1:])
    with refused("R2"):
        federation.sites[VICTIM].reply_unmask(replace(request, sealed=flipped).to_bytes())
    assert (federation.journals[VICTIM].get("journal"), load_secrets(federation.secrets[VICTIM])) == before
    federation.server.add_unmask_reply(federation.sites[VICTIM].reply_unmask(request.to_bytes()), VICTIM)


def test_damaged_messages_to_a_site_change_nothing():
    federation = Federation(3)
    descriptor = honest(federation).to_bytes()
    for bad in (descriptor[:-1], descriptor + b"\0", b"", os.urandom(200), descriptor[:6] + descriptor[7:]):
        with refused("the attempt descriptor from the lead is"):
            federation.sites[VICTIM].accept(bad, model_digest(1), TRAINING, lambda members: ())
    request = opened_round(federation, exchange=2)[VICTIM]
    for bad in (request[:-1], request + b"\0", b"", request[: len(request) // 2]):
        with refused("the unmask request from the lead is"):
            federation.sites[VICTIM].reply_unmask(bad)
    federation.server.add_unmask_reply(federation.sites[VICTIM].reply_unmask(request), VICTIM)
