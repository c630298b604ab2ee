"""The site's steps after its upload, as pure functions: what it signs, opens, is shown, or promises not to open."""

from dataclasses import replace

from fedhealth.secagg.client import journal_rules, key_ratchet, vector_rules
from fedhealth.secagg.client.credentials import SiteCredentials
from fedhealth.secagg.client.journal import Journal, Secrets
from fedhealth.secagg.errors import ProtocolViolationError, refuse_unless
from fedhealth.secagg.primitives import keys
from fedhealth.secagg.protocol import rules
from fedhealth.secagg.protocol.abandon import Abandonment, AbandonRequest, build_abandon_label
from fedhealth.secagg.protocol.context import AttemptContext
from fedhealth.secagg.protocol.envelope import list_unmask_slots
from fedhealth.secagg.protocol.history import build_opening_label, digest_shares
from fedhealth.secagg.protocol.messages import (
    LEAD,
    AttemptDescriptor,
    SignRequest,
    SurvivorSignature,
    UnmaskReply,
    UnmaskRequest,
)
from fedhealth.utils.digest import encode_parts


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
    slots = list_unmask_slots(context, request.survivors, segments)
    picked = [opened[dealer].get_share(index) for dealer, index, _ in slots]
    draft = UnmaskReply(context.ctx, me.site, segments, b"".join(picked))
    label = build_opening_label(context.ctx, request.survivors, segments, digest_shares(draft.shares))
    signed = replace(draft, signature=keys.sign_parts(me.identity, *label))
    reply = signed.to_bytes()
    journal = replace(journal, unmasked_survivors=request.survivors, unmask_reply=reply)
    notices = {dealer: envelope.notice for dealer, envelope in opened.items()}
    journal = replace(journal, unshown=False)
    return journal, key_ratchet.ratchet_to_exchange(secrets, context.descriptor.exchange + 1), reply, notices


def read_envelopes(
    me: SiteCredentials, journal: Journal, secrets: Secrets, request: UnmaskRequest
) -> tuple[Journal, dict[str, bytes]]:
    """Return the notices from the envelopes of the latest attempt, by dealer; nothing is answered.

    Envelopes that cannot be opened are left out; with this site's own there must be t.
    """
    context = _get_current_attempt(journal, request.ctx)
    rules.r1_survivors(context, me.site, request.survivors, me.thresholds)
    opened = rules.r2_sound_envelopes(context, me.site, dict(secrets.chains), request)
    least = context.descriptor.threshold
    refuse_unless(
        len(opened) >= least, f"{len(opened)} envelopes can be opened, {least} must", rule="R15", blame=(LEAD,)
    )
    return replace(journal, unshown=False), {dealer: envelope.notice for dealer, envelope in opened.items()}


def abandon_attempt(me: SiteCredentials, journal: Journal, request: AbandonRequest) -> tuple[Journal, Abandonment]:
    """Promise never to answer UNMASK for the latest attempt, or for a later one that did not arrive.

    Refused once it was answered. The later one then counts as the latest, and is never accepted.
    """
    asked = AttemptDescriptor.from_bytes(request.train) if request.train else None
    if asked is not None and asked.exchange > journal.exchange:
        journal = _pass_attempt(me, journal, asked)
    context = _get_current_attempt(journal, request.ctx)
    vector_rules.r10_may_abandon(journal)
    signature = keys.sign_parts(me.identity, *build_abandon_label(context.ctx))
    return replace(journal, abandoned=context.ctx), Abandonment(context.ctx, me.site, signature)


def _pass_attempt(me: SiteCredentials, journal: Journal, asked: AttemptDescriptor) -> Journal:
    """Mark an attempt that did not arrive as used; nothing was masked for it, and what was is still to be shown."""
    is_own = (asked.run, asked.config_digest) == (me.run, me.config_digest)
    refuse_unless(is_own, "the attempt belongs to another run", rule="R4", blame=(LEAD,))
    journal_rules.r7_progress(journal, asked, me.policy)
    vector_rules.r10_may_pass(journal, asked)
    burned = journal_rules.burn_attempt(journal, asked)
    return replace(burned, models=journal.models, unshown=journal.unshown, announced=journal.announced)


def _get_current_attempt(journal: Journal, ctx: bytes) -> AttemptContext:
    """Return the latest accepted attempt; requests for any other are refused."""
    if not journal.descriptor:
        raise ProtocolViolationError("this site takes part in no attempt", rule="R4", blame=(LEAD,))
    context = AttemptContext.from_descriptor(AttemptDescriptor.from_bytes(journal.descriptor))
    refuse_unless(context.ctx == ctx, "the request is about another attempt", rule="R4", blame=(LEAD,))
    return context
