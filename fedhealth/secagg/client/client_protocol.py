"""The site's protocol steps as pure functions: (credentials, state, message) to (new state, message).

`session.SiteSession` stores the new state before the message leaves.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fedhealth.secagg.client import journal_rules, key_ratchet, vector_rules
from fedhealth.secagg.client.credentials import SiteCredentials
from fedhealth.secagg.client.journal import Journal, Secrets
from fedhealth.secagg.client.quantized_store import QuantizedUpdate
from fedhealth.secagg.errors import ProtocolViolationError, refuse_unless
from fedhealth.secagg.primitives import keys, masks, packing
from fedhealth.secagg.primitives.layout import Layout
from fedhealth.secagg.primitives.quantize import Vectors, quantize
from fedhealth.secagg.protocol import rules
from fedhealth.secagg.protocol.abandon import Abandonment, AbandonRequest, build_abandon_label
from fedhealth.secagg.protocol.context import AttemptContext, verify_announcements
from fedhealth.secagg.protocol.envelope import compute_pair_tag, deal_shares, list_unmask_slots, select_mask_keys
from fedhealth.secagg.protocol.history import build_opening_label, digest_shares
from fedhealth.secagg.protocol.messages import (
    LEAD,
    AttemptDescriptor,
    KeyAnnouncement,
    MaskedUpload,
    SignRequest,
    SurvivorSignature,
    UnmaskReply,
    UnmaskRequest,
)
from fedhealth.secagg.protocol.statement import ShownNames
from fedhealth.utils.digest import encode_parts

DeriveLayout = Callable[[Sequence[KeyAnnouncement]], Layout]
"""Called with the verified announcements of an attempt."""


def announce_key(
    me: SiteCredentials,
    journal: Journal,
    secrets: Secrets,
    towers: Mapping[str, int],
    clock: int,
    statement: bytes,
    shown: ShownNames,
    noise: float = 0.0,
) -> tuple[Journal, Secrets, KeyAnnouncement]:
    """Generate a new key and announce it. `towers` maps the towers that this site trains to its announced weight.

    `statement` is the site's own state statement, `shown` names those of the others that it keeps. The epoch is the
    clock (seconds), or one more than the last: it increases even if the journal was lost.
    """
    epoch = max(journal.epoch + 1, clock)
    private = keys.generate_private_key()
    key, listed = keys.derive_public_key(private), tuple(sorted(towers.items()))
    draft = KeyAnnouncement(me.run, me.roster.digest, me.site, epoch, key, listed, statement, shown, noise=noise)
    signed = replace(draft, signature=keys.sign_parts(me.identity, b"announce", draft.body()))
    secrets = replace(secrets, pending=signed.to_bytes(), private=private)
    return replace(journal, epoch=epoch), secrets, signed


def accept_attempt(
    me: SiteCredentials,
    journal: Journal,
    secrets: Secrets,
    descriptor: AttemptDescriptor,
    model_digest: bytes,
    training_digest: bytes,
    derive_layout: DeriveLayout,
    certificates: Sequence[bytes] = (),
) -> tuple[Journal, Secrets, AttemptContext]:
    """Accept an attempt or raise `ProtocolViolationError`; the new journal marks it as burned.

    Args:
        me: the site's own knowledge.
        journal: its counters.
        secrets: its keys.
        descriptor: TRAIN, as received.
        model_digest: SHA-256 of the model that arrived with it, computed here.
        training_digest: SHA-256 of the training directives that arrived with it, computed here.
        derive_layout: returns the layout for the members' announcements, from what this site approved.
        certificates: that earlier attempts at the same vector can never open, as received.

    """
    _check_own_digests(me, descriptor, model_digest, training_digest)
    members = verify_announcements(descriptor.members, me.roster, me.run)
    digests = [hashlib.sha256(blob).digest() for blob in descriptor.members]
    rules.r8_cohort(descriptor, members, me.run_members, me.site)
    journal_rules.r8_epochs(journal, members, digests)
    context = AttemptContext.from_descriptor(descriptor)
    thresholds = me.thresholds
    rules.r8_threshold(context, thresholds)
    rules.r8_own_layout(context, derive_layout(members), thresholds)
    rules.r8_layout(context, thresholds)
    rules.r8_signed(context, thresholds)
    journal_rules.r7_progress(journal, descriptor, me.policy)
    journal_rules.r5_check_pin(journal, descriptor)
    journal_rules.r4_fresh_attempt(journal, descriptor.exchange, descriptor.attempt)
    vector_rules.r10_check_vector(journal, descriptor, me.roster, thresholds.colluders, certificates)
    secrets = key_ratchet.ratchet_to_attempt(me.site, me.run, secrets, members, descriptor)
    peers = {site: (site, epoch, digest) for site, epoch, digest in journal.peers}
    peers |= {m.site: (m.site, m.epoch, d) for m, d in zip(members, digests, strict=True)}
    return _burn_attempt(replace(journal, peers=tuple(peers.values())), descriptor), secrets, context


def quantize_update(me: SiteCredentials, context: AttemptContext, vectors: Mapping[str, Vectors]) -> QuantizedUpdate:
    """Quantize this site's vectors: {segment name: {entry name: array}} for every segment it owns."""
    found = {}
    for segment in context.owned_segments(me.site):
        refuse_unless(segment.name in vectors, f"segment {segment.name} has no values")
        weight = context.weights[me.site, segment.tower]
        words = quantize(segment, vectors[segment.name], weight)
        found[segment.name] = (segment.digest, weight, words)
    return QuantizedUpdate(found)


def mask_upload(
    me: SiteCredentials,
    secrets: Secrets,
    context: AttemptContext,
    quantized: QuantizedUpdate,
    notices: Mapping[str, bytes],
    workers: int = 1,
) -> tuple[MaskedUpload, dict[str, NDArray[np.uint8]]]:
    """Mask the words with fresh keys; return UPLOAD and the packed vectors by segment name.

    `notices` holds what each site of the cohort is told in its envelope, see `StateNotice`.
    """
    pairs = dict(secrets.chains)
    dealt = deal_shares(context, me.site, pairs, notices)
    vectors = {}
    for segment in context.owned_segments(me.site):
        digest, weight, words = quantized.segments.get(segment.name, (b"", 0, np.zeros(0, np.uint16)))
        fits = digest == segment.digest and weight == context.weights[me.site, segment.tower]
        refuse_unless(fits, f"the stored vector of segment {segment.name} belongs to another layout or weight")
        plus, minus = select_mask_keys(dealt.keys, segment.name)
        masked = words.copy()
        masks.apply_masks(masked, plus, minus, workers)
        vectors[segment.name] = packing.pack_words(masked, segment)
    draft = MaskedUpload(
        ctx=context.ctx,
        site=me.site,
        tags=tuple(compute_pair_tag(pairs[s], context.ctx, me.site, s) for s in context.cohort if s != me.site),
        secret_commits=dealt.secret_commits,
        share_commits=dealt.share_commits,
        envelopes=dealt.envelopes,
        vectors=tuple(hashlib.sha256(vector.data).digest() for vector in vectors.values()),
    )
    return replace(draft, signature=keys.sign_parts(me.identity, b"upload", draft.body())), vectors


def sign_survivors(me: SiteCredentials, journal: Journal, request: SignRequest) -> tuple[Journal, SurvivorSignature]:
    """Sign the list of survivors; one list per attempt."""
    context = _get_current_attempt(journal, request.ctx)
    vector_rules.r10_not_abandoned(journal, request.ctx)
    survivors = request.survivors
    journal_rules.r3_one_answer(journal, survivors)
    rules.r1_survivors(context, me.site, survivors, me.thresholds)
    names = encode_parts(*(name.encode() for name in survivors))
    signature = keys.sign_parts(me.identity, b"survivors", context.ctx, names)
    return replace(journal, signed_survivors=survivors), SurvivorSignature(context.ctx, me.site, signature)


def reply_unmask(
    me: SiteCredentials, journal: Journal, secrets: Secrets, request: UnmaskRequest
) -> tuple[Journal, Secrets, bytes, dict[str, bytes]]:
    """Return the reply to UNMASK (the stored one for a repeated request) and ratchet the keys to the next exchange.

    The last value holds the notices from the envelopes, by dealer; nothing may be sent before they are checked.
    """
    context = _get_current_attempt(journal, request.ctx)
    vector_rules.r10_not_abandoned(journal, request.ctx)
    earlier = journal_rules.r3_one_answer(journal, request.survivors)
    if earlier:
        return journal, secrets, earlier, {}
    segments = rules.r1_survivors(context, me.site, request.survivors, me.thresholds)
    rules.r1_signatures(context, request, me.roster)
    pairs = dict(secrets.chains)
    if secrets.exchange != context.descriptor.exchange or not set(request.survivors) <= set(pairs):
        raise ProtocolViolationError(
            "the keys of this exchange are lost", "Announce a new epoch for the next exchange."
        )
    opened = rules.r2_envelopes(context, me.site, pairs, request)
    picked = [
        opened[dealer].shares[index] for dealer, index, _ in list_unmask_slots(context, request.survivors, segments)
    ]
    draft = UnmaskReply(context.ctx, me.site, segments, b"".join(picked))
    label = build_opening_label(context.ctx, request.survivors, segments, digest_shares(draft.shares))
    signed = replace(draft, signature=keys.sign_parts(me.identity, *label))
    reply = signed.to_bytes()
    journal = replace(journal, unmasked_survivors=request.survivors, unmask_reply=reply)
    notices = {dealer: envelope.notice for dealer, envelope in opened.items()}
    return journal, key_ratchet.ratchet_to_exchange(secrets, context.descriptor.exchange + 1), reply, notices


def abandon_attempt(me: SiteCredentials, journal: Journal, request: AbandonRequest) -> tuple[Journal, Abandonment]:
    """Promise never to answer UNMASK for the latest attempt; refused once it was answered."""
    context = _get_current_attempt(journal, request.ctx)
    vector_rules.r10_may_abandon(journal)
    signature = keys.sign_parts(me.identity, *build_abandon_label(context.ctx))
    return replace(journal, abandoned=context.ctx), Abandonment(context.ctx, me.site, signature)


def _check_own_digests(
    me: SiteCredentials, descriptor: AttemptDescriptor, model_digest: bytes, training_digest: bytes
) -> None:
    """Compare the lead's values with those that the site knows or computed."""
    own = {
        "run": me.run,
        "config_digest": me.config_digest,
        "roster_digest": me.roster.digest,
        "model_digest": model_digest,
        "training_digest": training_digest,
    }
    for name, value in own.items():
        same = getattr(descriptor, name) == value
        refuse_unless(same, f"the descriptor's {name} differs from this site's own", blame=(LEAD,))


def _burn_attempt(journal: Journal, descriptor: AttemptDescriptor) -> Journal:
    vector = descriptor.vector.digest(descriptor.run)
    models = dict(journal.models)
    if vector != journal.vector:
        models[descriptor.model_digest] = models.get(descriptor.model_digest, 0) + 1
    return replace(
        journal,
        exchange=descriptor.exchange,
        pin=rules.r5_compute_pin(descriptor),
        attempt=descriptor.attempt,
        descriptor=descriptor.to_bytes(),
        vector=vector,
        model=vector_rules.digest_input(descriptor),
        abandoned=b"",
        signed_survivors=(),
        unmasked_survivors=(),
        unmask_reply=b"",
        models=tuple(models.items()),
    )


def _get_current_attempt(journal: Journal, ctx: bytes) -> AttemptContext:
    """Return the latest accepted attempt; requests for any other are refused."""
    if not journal.descriptor:
        raise ProtocolViolationError("this site takes part in no attempt", rule="R4", blame=(LEAD,))
    context = AttemptContext.from_descriptor(AttemptDescriptor.from_bytes(journal.descriptor))
    refuse_unless(context.ctx == ctx, "the request is about another attempt", rule="R4", blame=(LEAD,))
    return context
