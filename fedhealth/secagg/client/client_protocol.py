"""The site's steps up to its upload as pure functions: (credentials, state, message) to (new state, message).

The other steps are in `opening_steps`. `session.SiteSession` stores the new state before the message leaves.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from fedhealth.secagg.client import journal_rules, key_ratchet, vector_rules
from fedhealth.secagg.client.credentials import SiteCredentials
from fedhealth.secagg.client.journal import Journal, Secrets
from fedhealth.secagg.client.quantized_store import QuantizedUpdate
from fedhealth.secagg.errors import refuse_unless
from fedhealth.secagg.primitives import keys, masks, packing
from fedhealth.secagg.primitives.layout import Layout
from fedhealth.secagg.primitives.packing import PackedWords
from fedhealth.secagg.primitives.quantize import Vectors, quantize
from fedhealth.secagg.protocol import rules
from fedhealth.secagg.protocol.context import AttemptContext, verify_announcements
from fedhealth.secagg.protocol.envelope import compute_pair_tag, deal_shares, select_mask_keys
from fedhealth.secagg.protocol.messages import (
    LEAD,
    AttemptDescriptor,
    KeyAnnouncement,
    MaskedUpload,
)
from fedhealth.secagg.protocol.statement import ShownNames

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
    noise: tuple[float, float] = (0.0, 0.0),
) -> tuple[Journal, Secrets, KeyAnnouncement]:
    """Generate a new key and announce it. `towers` maps the towers that this site trains to its announced weight.

    `statement` is the site's own state statement, `shown` names those of the others that it keeps, `noise` are
    the least noise multipliers that it accepts in sums of models and of statistics whose noise is shared. The epoch is
    the clock (seconds), or one more than the last: it increases even if the journal was lost.
    """
    epoch = max(journal.epoch + 1, clock)
    private = keys.generate_private_key()
    key, listed = keys.derive_public_key(private), tuple(sorted(towers.items()))
    draft = KeyAnnouncement(me.run, me.roster.digest, me.site, epoch, key, listed, statement, shown)
    draft = replace(draft, noise=noise[0], statistics_noise=noise[1])
    signed = replace(draft, signature=keys.sign_parts(me.identity, b"announce", draft.body()))
    secrets = replace(secrets, pending=signed.to_bytes(), private=private)
    return replace(journal, epoch=epoch, announced=True), secrets, signed


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
    journal_rules.r15_previous_shown(journal, descriptor, renews_keys=secrets.pending in descriptor.members)
    secrets = key_ratchet.ratchet_to_attempt(me.site, me.run, secrets, members, descriptor)
    peers = {site: (site, epoch, digest) for site, epoch, digest in journal.peers}
    peers |= {m.site: (m.site, m.epoch, d) for m, d in zip(members, digests, strict=True)}
    return journal_rules.burn_attempt(replace(journal, peers=tuple(peers.values())), descriptor), secrets, context


def quantize_update(
    me: SiteCredentials,
    context: AttemptContext,
    vectors: Mapping[str, Vectors],
    out: Mapping[str, PackedWords] | None = None,
) -> QuantizedUpdate:
    """Quantize this site's vectors: {segment name: {entry name: array}} for every segment it owns.

    The words are written into `out`, bytes of the wire's size by segment name, where they are not packed otherwise.
    """
    found = {}
    for segment in context.owned_segments(me.site):
        refuse_unless(segment.name in vectors, f"segment {segment.name} has no values")
        weight = context.weights[me.site, segment.tower]
        place = None if out is None else packing.view_words(out[segment.name], segment)
        words = quantize(segment, vectors[segment.name], weight, place)
        found[segment.name] = (segment.digest, weight, words)
    return QuantizedUpdate(found)


def mask_upload(
    me: SiteCredentials,
    secrets: Secrets,
    context: AttemptContext,
    quantized: QuantizedUpdate,
    notices: Mapping[str, bytes],
    workers: int = 1,
    out: Mapping[str, PackedWords] | None = None,
) -> tuple[MaskedUpload, dict[str, PackedWords]]:
    """Mask the words with fresh keys; return UPLOAD and the packed vectors by segment name.

    `notices` holds what each site of the cohort is told in its envelope, see `StateNotice`; `out` is where the packed
    vectors are written, by segment name. Words that lie there already are masked in place.
    """
    pairs = dict(secrets.chains)
    dealt = deal_shares(context, me.site, pairs, notices)
    vectors = {}
    for segment in context.owned_segments(me.site):
        digest, weight, words = quantized.segments.get(segment.name, (b"", 0, np.zeros(0, np.uint16)))
        fits = digest == segment.digest and weight == context.weights[me.site, segment.tower]
        refuse_unless(fits, f"the stored vector of segment {segment.name} belongs to another layout or weight")
        plus, minus = select_mask_keys(context, dealt.keys, segment.name)
        target = np.empty(segment.wire_bytes, np.uint8) if out is None else out[segment.name]
        masked = packing.view_words(target, segment)
        if masked is None:
            masked = words.copy()
        elif masked.ctypes.data != words.ctypes.data:  # else they were quantized into `out`
            masked[:] = words
        masks.apply_masks(masked, plus, minus, workers)
        if segment.bits not in packing.UNPACKED_BITS:
            target[:] = packing.pack_words(masked, segment)
        vectors[segment.name] = target
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
