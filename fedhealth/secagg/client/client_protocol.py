"""The site's steps as pure functions: (what it knows, its memory, a message) to (its new memory, a message).

`site_session.SiteSession` stores the new memory before the message leaves.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from fedhealth.consortium.roster import Roster
from fedhealth.protocol.digest import transcript
from fedhealth.secagg.client import key_ratchet
from fedhealth.secagg.client.journal import Journal, Secrets
from fedhealth.secagg.client.quantised_store import Quantised
from fedhealth.secagg.primitives import keys, masks, packing
from fedhealth.secagg.primitives.quantize import Vectors, quantise
from fedhealth.secagg.protocol import rules
from fedhealth.secagg.protocol.context import Context, verified_members
from fedhealth.secagg.protocol.envelope import deal, mask_keys, opened, pair_tag
from fedhealth.secagg.protocol.errors import RefusedError, refuse_unless
from fedhealth.secagg.protocol.messages import (
    LEAD,
    Announcement,
    Answer,
    Directive,
    Endorsement,
    SignRequest,
    UnmaskRequest,
    Upload,
)
from fedhealth.secagg.protocol.threshold import Policy, bounds


@dataclass(frozen=True)
class Membership:
    """What the site itself knows; nothing here ever comes from the lead's messages.

    Args:
        run: the run's id.
        site: own id.
        identity: own Ed25519 key, made here.
        roster: the members that the site's staff approved.
        config_digest: SHA-256 of the job this site accepted.
        policy: what this site insists on.

    """

    run: str
    site: str
    identity: Ed25519PrivateKey
    roster: Roster
    config_digest: bytes
    policy: Policy = field(default_factory=Policy)


def announce(
    me: Membership, journal: Journal, secrets: Secrets, towers: Mapping[str, int], clock: int
) -> tuple[Journal, Secrets, Announcement]:
    """Make a new key and announce it. `towers` maps what this site trains to its announced weight.

    The epoch is the clock (seconds), or one more than the last: it rises even if the journal was lost.
    """
    epoch = max(journal.epoch + 1, clock)
    private = keys.new_private_key()
    key, listed = keys.public_key(private), tuple(sorted(towers.items()))
    draft = Announcement(me.run, me.roster.digest, me.site, epoch, key, listed)
    signed = replace(draft, signature=keys.sign(me.identity, b"announce", draft.body()))
    secrets = replace(secrets, pending=signed.to_bytes(), private=private)
    return replace(journal, epoch=epoch), secrets, signed


def accept(
    me: Membership,
    journal: Journal,
    secrets: Secrets,
    directive: Directive,
    model_digest: bytes,
    training_digest: bytes,
) -> tuple[Journal, Secrets, Context]:
    """Agree to an attempt, or raise `RefusedError`; the new journal has it burned.

    Args:
        me: what the site knows.
        journal: its counters.
        secrets: its keys.
        directive: TRAIN as received.
        model_digest: SHA-256 of the model that arrived with it, computed here.
        training_digest: SHA-256 of the training directives that arrived with it, computed here.

    """
    _same_as_own(me, directive, model_digest, training_digest)
    members = verified_members(directive.members, me.roster, me.run)
    digests = [hashlib.sha256(blob).digest() for blob in directive.members]
    rules.r8_cohort(directive, members, me.roster, me.site)
    rules.r8_epochs(journal, members, digests)
    context, limits = Context.of(directive), bounds(len(directive.base), me.policy)
    rules.r8_threshold(context, limits)
    rules.r8_layout(context, limits)
    rules.r8_signed(context, limits)
    rules.r7_progress(journal, directive, me.policy)
    rules.r5_pinned(journal, directive)
    rules.r4_fresh_attempt(journal, directive.exchange, directive.attempt)
    secrets = key_ratchet.at_directive(me.site, me.run, secrets, members, directive)
    peers = {site: (site, epoch, digest) for site, epoch, digest in journal.peers}
    peers |= {m.site: (m.site, m.epoch, d) for m, d in zip(members, digests, strict=True)}
    return _burn(replace(journal, peers=tuple(peers.values())), directive), secrets, context


def quantised(me: Membership, context: Context, vectors: Mapping[str, Vectors]) -> Quantised:
    """Quantise this site's vectors: {segment name: {entry name: array}} for every segment it owns."""
    found = {}
    for segment in context.owned(me.site):
        refuse_unless(segment.name in vectors, f"segment {segment.name} has no values")
        weight = context.weights[me.site, segment.tower]
        words = quantise(segment, vectors[segment.name], weight)
        found[segment.name] = (segment.digest, weight, words)
    return Quantised(found)


def upload(
    me: Membership, secrets: Secrets, context: Context, kept: Quantised, workers: int = 1
) -> tuple[Upload, dict[str, NDArray[np.uint8]]]:
    """Mask the kept words under fresh keys; returns UPLOAD and the packed vectors by segment name."""
    pairs = dict(secrets.chains)
    dealt = deal(context, me.site, pairs)
    vectors = {}
    for segment in context.owned(me.site):
        digest, weight, words = kept.segments.get(segment.name, (b"", 0, np.zeros(0, np.uint16)))
        fits = digest == segment.digest and weight == context.weights[me.site, segment.tower]
        refuse_unless(fits, f"the kept vector of segment {segment.name} belongs to another layout or weight")
        plus, minus = mask_keys(dealt.keys, segment.name)
        masked = words.copy()
        masks.apply(masked, plus, minus, workers)
        vectors[segment.name] = packing.pack(masked, segment)
    draft = Upload(
        ctx=context.ctx,
        site=me.site,
        tags=tuple(pair_tag(pairs[s], context.ctx, me.site, s) for s in context.cohort if s != me.site),
        secret_commits=dealt.secret_commits,
        share_commits=dealt.share_commits,
        envelopes=dealt.envelopes,
        vectors=tuple(hashlib.sha256(vector.data).digest() for vector in vectors.values()),
    )
    return replace(draft, signature=keys.sign(me.identity, b"upload", draft.body())), vectors


def endorse(me: Membership, journal: Journal, request: SignRequest) -> tuple[Journal, Endorsement]:
    """Sign the list of survivors; one list per attempt."""
    context = _current(journal, request.ctx)
    survivors = request.survivors
    rules.r3_one_answer(journal, survivors)
    rules.r1_survivors(context, me.site, survivors, bounds(len(context.directive.base), me.policy))
    names = transcript(*(name.encode() for name in survivors))
    signature = keys.sign(me.identity, b"survivors", context.ctx, names)
    return replace(journal, endorsed=survivors), Endorsement(context.ctx, me.site, signature)


def unmask(
    me: Membership, journal: Journal, secrets: Secrets, request: UnmaskRequest
) -> tuple[Journal, Secrets, bytes]:
    """Answer UNMASK, or give the identical answer again; the chain keys then move on to the next exchange."""
    context = _current(journal, request.ctx)
    earlier = rules.r3_one_answer(journal, request.survivors)
    if earlier:
        return journal, secrets, earlier
    limits = bounds(len(context.directive.base), me.policy)
    segments = rules.r1_survivors(context, me.site, request.survivors, limits)
    rules.r1_signatures(context, request, me.roster)
    pairs = dict(secrets.chains)
    if secrets.exchange != context.directive.exchange or not set(request.survivors) <= set(pairs):
        raise RefusedError("the keys of this exchange are lost", "Announce a new epoch for the next exchange.")
    shares = rules.r2_envelopes(context, me.site, pairs, request)
    picked = [shares[dealer][index] for dealer, index, _ in opened(context, request.survivors, segments)]
    draft = Answer(context.ctx, me.site, segments, b"".join(picked))
    signed = replace(draft, signature=keys.sign(me.identity, b"answer", draft.body()))
    answer = signed.to_bytes()
    journal = replace(journal, survivors=request.survivors, answer=answer)
    return journal, key_ratchet.at_exchange(secrets, context.directive.exchange + 1), answer


def _same_as_own(me: Membership, directive: Directive, model_digest: bytes, training_digest: bytes) -> None:
    """Compare what the lead claims with what the site knows or computed."""
    own = {
        "run": me.run,
        "config_digest": me.config_digest,
        "roster_digest": me.roster.digest,
        "model_digest": model_digest,
        "training_digest": training_digest,
    }
    for name, value in own.items():
        same = getattr(directive, name) == value
        refuse_unless(same, f"the directive's {name} differs from this site's own", blame=(LEAD,))


def _burn(journal: Journal, directive: Directive) -> Journal:
    first = directive.exchange > journal.exchange
    models = dict(journal.models)
    if first:
        models[directive.model_digest] = models.get(directive.model_digest, 0) + 1
    return replace(
        journal,
        exchange=directive.exchange,
        pin=rules.r5_pin(directive),
        attempt=directive.attempt,
        directive=directive.to_bytes(),
        endorsed=(),
        survivors=(),
        answer=b"",
        models=tuple(models.items()),
    )


def _current(journal: Journal, ctx: bytes) -> Context:
    """Return the latest accepted attempt; the lead may ask about no other."""
    if not journal.directive:
        raise RefusedError("this site takes part in no attempt", rule="R4", blame=(LEAD,))
    context = Context.of(Directive.from_bytes(journal.directive))
    refuse_unless(context.ctx == ctx, "the request is about another attempt", rule="R4", blame=(LEAD,))
    return context
