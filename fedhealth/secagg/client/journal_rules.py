"""The rules R3, R4, R5, R7 and R15, and the epochs of R8: what the site checks against its own journal.

The other rules are in `fedhealth.secagg.protocol.rules`; docs/secure-aggregation.md describes the attack behind each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fedhealth.secagg.client.journal import Journal
from fedhealth.secagg.client.vector_rules import digest_input
from fedhealth.secagg.protocol.messages import AttemptDescriptor, KeyAnnouncement
from fedhealth.secagg.protocol.rules import lead_must, r5_compute_pin
from fedhealth.secagg.protocol.threshold import ThresholdPolicy


def r3_one_answer(journal: Journal, survivors: tuple[str, ...]) -> bytes | None:
    """Check that no other U2 was answered in this exchange, or signed; return the earlier answer."""
    for given, done in ((journal.unmasked_survivors, "answered"), (journal.signed_survivors, "signed")):
        lead_must(given in ((), survivors), "R3", f"another list of survivors was already {done}")
    return journal.unmask_reply or None


def r4_fresh_attempt(journal: Journal, exchange: int, attempt: int) -> None:
    """Check that (run, exchange, attempt) was never masked before."""
    burned = exchange == journal.exchange and attempt <= journal.attempt
    lead_must(not burned and attempt >= 1, "R4", f"attempt {attempt} of exchange {exchange} is burned")


def r5_check_pin(journal: Journal, descriptor: AttemptDescriptor) -> None:
    """Check that a later attempt keeps base cohort, t and model, and that no upload follows an answer."""
    if descriptor.exchange != journal.exchange:
        return
    lead_must(not journal.unmask_reply, "R5", f"exchange {descriptor.exchange} was already answered")
    same = r5_compute_pin(descriptor) == journal.pin
    lead_must(same, "R5", "a later attempt must keep members, base cohort, threshold, model and directives")


def r7_progress(journal: Journal, descriptor: AttemptDescriptor, policy: ThresholdPolicy) -> None:
    """Check that exchanges only go up, to the run's end, and that few vectors are asked for with one model."""
    exchange = descriptor.exchange
    lead_must(exchange >= max(journal.exchange, 1), "R7", f"exchange {exchange} is past")
    lead_must(exchange <= policy.max_exchanges, "R7", f"exchange {exchange} is beyond the run's end")
    if descriptor.vector_digest != journal.vector:
        times = dict(journal.models).get(descriptor.model_digest, 0)
        lead_must(times < policy.max_rounds_per_model, "R7", f"this model was already trained {times} times")


def needs_envelopes(journal: Journal, descriptor: AttemptDescriptor, *, renews_keys: bool) -> bool:
    """Return whether an attempt at a new vector comes before this site was shown the envelopes of its latest one.

    `renews_keys`: whether the attempt begins new chains. Then the members' announcements show it instead (R14), if this
    site's own announcement is newer than its latest vector.
    """
    is_new = descriptor.vector_digest != journal.vector
    return is_new and journal.unshown and not (renews_keys and journal.announced)


def r15_previous_shown(journal: Journal, descriptor: AttemptDescriptor, *, renews_keys: bool) -> None:
    """Check that this site was shown what the others sealed to it with its latest vector, before it sends another."""
    is_shown = not needs_envelopes(journal, descriptor, renews_keys=renews_keys)
    lead_must(is_shown, "R15", "this site was not shown the envelopes of its latest vector")


def r8_epochs(journal: Journal, members: Sequence[KeyAnnouncement], digests: Sequence[bytes]) -> None:
    """Check that a member's key changed only with a higher epoch of its own signing."""
    known = {site: (epoch, digest) for site, epoch, digest in journal.peers}
    for member, digest in zip(members, digests, strict=True):
        epoch, old = known.get(member.site, (0, b""))
        fresh = member.epoch > epoch or (member.epoch == epoch and digest == old)
        lead_must(fresh, "R8", f"the announcement of {member.site} is an old or a replaced one")


def burn_attempt(journal: Journal, descriptor: AttemptDescriptor) -> Journal:
    """Mark an attempt as used (R4); what belongs to the attempt before is forgotten."""
    vector = descriptor.vector_digest
    models = dict(journal.models)
    if vector != journal.vector:
        models[descriptor.model_digest] = models.get(descriptor.model_digest, 0) + 1
    return replace(
        journal,
        exchange=descriptor.exchange,
        pin=r5_compute_pin(descriptor),
        attempt=descriptor.attempt,
        descriptor=descriptor.to_bytes(),
        vector=vector,
        model=digest_input(descriptor),
        abandoned=b"",
        signed_survivors=(),
        unmasked_survivors=(),
        unmask_reply=b"",
        models=tuple(models.items()),
        unshown=True,
        announced=False,
    )
