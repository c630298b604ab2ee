"""The rules R1 to R9, one check each: R1 to R5, R7 and R8 at the site, R6 and R9 at the lead.

Every rule closes an attack that was found on paper; docs/secure-aggregation.md tells which.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from fedhealth.consortium.roster import Roster
from fedhealth.protocol.digest import transcript
from fedhealth.secagg.client.journal import Journal
from fedhealth.secagg.primitives.keys import signed_by
from fedhealth.secagg.protocol.context import Context
from fedhealth.secagg.protocol.envelope import unseal
from fedhealth.secagg.protocol.errors import RefusedError
from fedhealth.secagg.protocol.layout import Segment, Words
from fedhealth.secagg.protocol.messages import LEAD, Announcement, Directive, UnmaskRequest
from fedhealth.secagg.protocol.threshold import Bounds, Policy, needs_signatures


def _lead_must(condition: bool, rule: str, problem: str) -> None:
    """Refuse, and blame the lead, unless the condition holds."""
    if not condition:
        raise RefusedError(problem, rule=rule, blame=(LEAD,))


def r1_survivors(context: Context, site: str, survivors: Sequence[str], limits: Bounds) -> tuple[str, ...]:
    """Check that U2 is proper, includes the reader and is large enough; return the segments it may open."""
    _lead_must(list(survivors) == sorted(set(survivors)), "R1", "survivors must be sorted and unique")
    _lead_must(set(survivors) <= set(context.cohort), "R1", "survivors must belong to the attempt's cohort")
    _lead_must(site in survivors, "R1", f"{site} is not among the survivors")
    least = max(context.directive.threshold, limits.threshold)
    _lead_must(len(survivors) >= least, "R1", f"{len(survivors)} survivors are fewer than {least}")
    found = open_segments(context, survivors, limits)
    _lead_must(bool(found), "R1", "no segment has enough owners among the survivors")
    return found


def open_segments(context: Context, survivors: Sequence[str], limits: Bounds) -> tuple[str, ...]:
    """Return the segments with enough owners among the survivors to hide each other; the others stay closed."""
    return tuple(
        segment.name for segment in context.layout if len(context.owners(segment, survivors)) >= limits.min_owners
    )


def r1_signatures(context: Context, request: UnmaskRequest, roster: Roster) -> None:
    """Check that at least t survivors signed this very list, when the attempt needs signatures."""
    if not context.directive.signed:
        return
    signers = [site for site, _ in request.endorsements]
    proper = signers == sorted(set(signers)) and set(signers) <= set(request.survivors)
    _lead_must(proper, "R1", "signatures must come from survivors, sorted and once each")
    least = context.directive.threshold
    _lead_must(len(signers) >= least, "R1", f"{len(signers)} survivors signed the list, {least} must")
    for site, signature in request.endorsements:
        if not endorsed(roster, site, signature, request.ctx, request.survivors):
            raise RefusedError(f"the signature of {site} under the survivors is false", rule="R1", blame=(LEAD, site))


def endorsed(roster: Roster, site: str, signature: bytes, ctx: bytes, survivors: Sequence[str]) -> bool:
    """Tell whether the site signed this list of survivors for this attempt."""
    names = transcript(*(name.encode() for name in survivors))
    return signed_by(roster.keys[site], signature, b"survivors", ctx, names)


def r2_envelopes(
    context: Context, site: str, chains: Mapping[str, bytes], request: UnmaskRequest
) -> dict[str, list[bytes]]:
    """Open every envelope to exactly the shares its dealer committed to; return {dealer: shares}."""
    proper = len(request.sealed) == len(request.commits) == len(request.survivors)
    _lead_must(proper, "R2", "one envelope and one commitment per survivor are needed")
    found = {}
    for dealer, sealed, commits in zip(request.survivors, request.sealed, request.commits, strict=True):
        shares = unseal(context, chains[dealer], dealer, site, sealed, commits)
        if shares is None:
            raise RefusedError(f"the envelope from {dealer} to {site} is not sound", rule="R2", blame=(dealer,))
        found[dealer] = shares
    return found


def r3_one_answer(journal: Journal, survivors: tuple[str, ...]) -> bytes | None:
    """Check that no other U2 was answered in this exchange, or signed; return the earlier answer."""
    for given, done in ((journal.survivors, "answered"), (journal.endorsed, "signed")):
        _lead_must(given in ((), survivors), "R3", f"another list of survivors was already {done}")
    return journal.answer or None


def r4_fresh_attempt(journal: Journal, exchange: int, attempt: int) -> None:
    """Check that (run, exchange, attempt) was never masked before."""
    burned = exchange == journal.exchange and attempt <= journal.attempt
    _lead_must(not burned and attempt >= 1, "R4", f"attempt {attempt} of exchange {exchange} is burned")


def r5_pin(directive: Directive) -> bytes:
    """Return the digest of what the first attempt of an exchange fixes for the later ones."""
    parts = (
        transcript(*directive.members),
        transcript(*(site.encode() for site in directive.base)),
        directive.threshold.to_bytes(4, "little"),
        directive.model_digest,
        directive.training_digest,
    )
    return hashlib.sha256(transcript(*parts)).digest()


def r5_pinned(journal: Journal, directive: Directive) -> None:
    """Check that a later attempt keeps base cohort, t and model, and that no upload follows an answer."""
    if directive.exchange != journal.exchange:
        return
    _lead_must(not journal.answer, "R5", f"exchange {directive.exchange} was already answered")
    same = r5_pin(directive) == journal.pin
    _lead_must(same, "R5", "a later attempt must keep members, base cohort, threshold, model and directives")


def r6_unopened(unmasking: Context | None, exchange: int) -> None:
    """Check, before a new attempt, that nobody was asked to unmask in this exchange."""
    if unmasking is not None and unmasking.directive.exchange >= exchange:
        raise RefusedError(
            f"exchange {unmasking.directive.exchange} is being unmasked",
            "Send the stored unmask requests again, or start the next exchange.",
            rule="R6",
            blame=(LEAD,),
        )


def r7_progress(journal: Journal, directive: Directive, policy: Policy) -> None:
    """Check that exchanges only go up, to the run's end, and that the same model comes a few times at most."""
    exchange = directive.exchange
    _lead_must(exchange >= max(journal.exchange, 1), "R7", f"exchange {exchange} is past")
    _lead_must(exchange <= policy.max_exchanges, "R7", f"exchange {exchange} is beyond the run's end")
    if exchange > journal.exchange:
        times = dict(journal.models).get(directive.model_digest, 0)
        _lead_must(times < policy.max_rounds_per_model, "R7", f"this model was already trained {times} times")


def r8_cohort(directive: Directive, members: Sequence[Announcement], roster: Roster, site: str) -> None:
    """Check that two thirds of the approved members are in the base cohort, and the attempt's cohort in it."""
    announced = {member.site for member in members}
    base, cohort = directive.base, directive.cohort
    for name, group, whole in (("base cohort", base, announced), ("cohort", cohort, set(base))):
        _lead_must(list(group) == sorted(set(group)), "R8", f"the {name} must be sorted and unique")
        _lead_must(set(group) <= whole, "R8", f"the {name} names sites that are not members")
    _lead_must(site in cohort, "R8", f"{site} is not in the cohort")
    enough = 3 * len(base) >= 2 * len(roster.members)
    _lead_must(enough, "R8", f"{len(base)} of {len(roster.members)} members are fewer than two thirds")


def r8_epochs(journal: Journal, members: Sequence[Announcement], digests: Sequence[bytes]) -> None:
    """Check that a member's key changed only with a higher epoch of its own signing."""
    known = {site: (epoch, digest) for site, epoch, digest in journal.peers}
    for member, digest in zip(members, digests, strict=True):
        epoch, old = known.get(member.site, (0, b""))
        fresh = member.epoch > epoch or (member.epoch == epoch and digest == old)
        _lead_must(fresh, "R8", f"the announcement of {member.site} is an old or a replaced one")


def r8_threshold(context: Context, limits: Bounds) -> None:
    """Check that the lead raised t if anything, and that the cohort can reach it."""
    t, cohort = context.directive.threshold, len(context.cohort)
    _lead_must(t >= limits.threshold, "R8", f"threshold {t} is below {limits.threshold}")
    _lead_must(t <= cohort, "R8", f"a cohort of {cohort} cannot reach the threshold {t}")


def r8_signed(context: Context, limits: Bounds) -> None:
    """Check that the lead did not switch needed signatures off."""
    needed = signatures_needed(context, limits)
    _lead_must(context.directive.signed or not needed, "R8", "this cohort needs signed survivor lists")


def signatures_needed(context: Context, limits: Bounds) -> bool:
    """Tell whether this attempt's survivors must sign their list."""
    owners = tuple(len(context.owners(segment, context.cohort)) for segment in context.layout)
    limits = replace(limits, threshold=context.directive.threshold)
    return needs_signatures(limits, len(context.cohort), owners)


def r8_layout(context: Context, limits: Bounds) -> None:
    """Check that segments are unique, have enough owners to hide each other, and room for all weights."""
    names = [segment.name for segment in context.layout]
    _lead_must(len(set(names)) == len(names) > 0, "R8", "segments must have unique names")
    for segment in context.layout:
        owners = context.owners(segment, context.cohort)
        enough = len(owners) >= limits.min_owners
        _lead_must(enough, "R8", f"tower {segment.tower} has {len(owners)} owners, needs {limits.min_owners}")
        base = context.owners(segment, context.directive.base)
        weight = sum(context.weights[site, segment.tower] for site in base)
        room = len(base) <= segment.sites and (segment.kind == "statistics" or weight <= segment.normaliser)
        _lead_must(room, "R8", f"segment {segment.name} has no headroom for {len(base)} sites of weight {weight}")


def r9_contributors(segment: Segment, total: Words, owners: Sequence[str]) -> None:
    """Check that the opened sum counts exactly the survivors that own the segment."""
    words = total[segment.length : segment.length + segment.count_words].astype(np.uint64)
    counted = words & np.uint64(2**segment.bits - 1)
    if not (counted == len(owners)).all():
        raise RefusedError(
            f"segment {segment.name} does not open to {len(owners)} contributions",
            "One of these sites masked with other keys than it dealt; no sum was made.",
            rule="R9",
            blame=tuple(owners),
        )
