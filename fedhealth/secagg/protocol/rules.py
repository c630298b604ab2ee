"""The rules R1 to R9, except those that need the site's journal: R1, R2 and R8 at the site, R6 and R9 at the lead.

The others are in `fedhealth.secagg.client.journal_rules`. docs/secure-aggregation.md describes the attack behind each.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np

from fedhealth.consortium.roster import Roster
from fedhealth.secagg.errors import ProtocolViolationError
from fedhealth.secagg.primitives.keys import is_signed_by
from fedhealth.secagg.primitives.layout import Layout, Segment, Words
from fedhealth.secagg.protocol.context import AttemptContext
from fedhealth.secagg.protocol.envelope import OpenedEnvelope, unseal_shares
from fedhealth.secagg.protocol.messages import LEAD, AttemptDescriptor, KeyAnnouncement, UnmaskRequest
from fedhealth.secagg.protocol.threshold import Thresholds, needs_signatures
from fedhealth.utils.digest import digest_parts, encode_parts


def lead_must(condition: bool, rule: str, problem: str) -> None:
    """Raise `ProtocolViolationError` and blame the lead, unless the condition holds."""
    if not condition:
        raise ProtocolViolationError(problem, rule=rule, blame=(LEAD,))


def r1_survivors(
    context: AttemptContext, site: str, survivors: Sequence[str], thresholds: Thresholds
) -> tuple[str, ...]:
    """Check that the survivors are valid, include the site and suffice; return the segments that may be opened."""
    lead_must(list(survivors) == sorted(set(survivors)), "R1", "survivors must be sorted and unique")
    lead_must(set(survivors) <= set(context.cohort), "R1", "survivors must belong to the attempt's cohort")
    lead_must(site in survivors, "R1", f"{site} is not among the survivors")
    least = max(context.descriptor.threshold, thresholds.threshold)
    lead_must(len(survivors) >= least, "R1", f"{len(survivors)} survivors are fewer than {least}")
    found = select_open_segments(context, survivors, thresholds)
    lead_must(bool(found), "R1", "no segment has enough owners among the survivors")
    return found


def select_open_segments(context: AttemptContext, survivors: Sequence[str], thresholds: Thresholds) -> tuple[str, ...]:
    """Return the segments with enough owners among the survivors to hide each other; the others stay masked.

    The owners' shares of the noise must be enough too, also without those of the colluders.
    """
    return tuple(
        segment.name
        for segment in context.layout
        if len(context.owners(segment, survivors)) >= max(thresholds.min_owners, segment.shares + thresholds.colluders)
    )


def r1_signatures(context: AttemptContext, request: UnmaskRequest, roster: Roster) -> None:
    """Check that at least t survivors signed this very list, when the attempt needs signatures."""
    if not context.descriptor.signed:
        return
    signers = [site for site, _ in request.signatures]
    proper = signers == sorted(set(signers)) and set(signers) <= set(request.survivors)
    lead_must(proper, "R1", "signatures must come from survivors, sorted and once each")
    least = context.descriptor.threshold
    lead_must(len(signers) >= least, "R1", f"{len(signers)} survivors signed the list, {least} must")
    for site, signature in request.signatures:
        if not is_survivor_list_signed(roster, site, signature, request.ctx, request.survivors):
            raise ProtocolViolationError(
                f"the signature of {site} under the survivors is false", rule="R1", blame=(LEAD, site)
            )


def is_survivor_list_signed(roster: Roster, site: str, signature: bytes, ctx: bytes, survivors: Sequence[str]) -> bool:
    """Return whether the site signed this list of survivors for this attempt."""
    return _is_list_signed_once(roster.keys[site], signature, ctx, tuple(survivors))


@lru_cache(maxsize=512)  # the list comes back from t survivors, to all virtual sites of a process
def _is_list_signed_once(public: bytes, signature: bytes, ctx: bytes, survivors: tuple[str, ...]) -> bool:
    names = encode_parts(*(name.encode() for name in survivors))
    return is_signed_by(public, signature, b"survivors", ctx, names)


def r2_envelopes(
    context: AttemptContext, site: str, chains: Mapping[str, bytes], request: UnmaskRequest
) -> dict[str, OpenedEnvelope]:
    """Open every envelope to exactly the shares its dealer committed to; return them by dealer."""
    found = r2_sound_envelopes(context, site, chains, request)
    for dealer in request.survivors:
        if dealer not in found:
            raise ProtocolViolationError(
                f"the envelope from {dealer} to {site} is not sound", rule="R2", blame=(dealer,)
            )
    return found


def r2_sound_envelopes(
    context: AttemptContext, site: str, chains: Mapping[str, bytes], request: UnmaskRequest
) -> dict[str, OpenedEnvelope]:
    """Return the envelopes that open to exactly the shares their dealers committed to, by dealer."""
    proper = len(request.sealed) == len(request.commits) == len(request.survivors)
    lead_must(proper, "R2", "one envelope and one commitment per survivor are needed")
    found = {}
    for dealer, sealed, commits in zip(request.survivors, request.sealed, request.commits, strict=True):
        opened = unseal_shares(context, chains[dealer], dealer, site, sealed, commits) if dealer in chains else None
        if opened is not None:
            found[dealer] = opened
    return found


def r5_compute_pin(descriptor: AttemptDescriptor) -> bytes:
    """Return the digest of what the first attempt of an exchange fixes for the later ones."""
    parts = (
        encode_parts(*descriptor.members),
        encode_parts(*(site.encode() for site in descriptor.base)),
        descriptor.threshold.to_bytes(4, "little"),
        descriptor.model_digest,
        descriptor.history,
        descriptor.training_digest,
    )
    return digest_parts(b"pin", *parts)


def r6_unopened(unmasking: AttemptContext | None, exchange: int) -> None:
    """Check, before a new attempt, that no unmask request of this exchange was sent."""
    if unmasking is not None and unmasking.descriptor.exchange >= exchange:
        raise ProtocolViolationError(
            f"exchange {unmasking.descriptor.exchange} is being unmasked",
            "Send the stored unmask requests again, or start the next exchange.",
            rule="R6",
            blame=(LEAD,),
        )


def r8_cohort(
    descriptor: AttemptDescriptor, members: Sequence[KeyAnnouncement], of_run: Sequence[str], site: str
) -> None:
    """Check that only members of the run are announced, and that the cohorts are drawn from them."""
    announced = {member.site for member in members}
    lead_must(announced <= set(of_run), "R8", "the members include sites that are not in the run")
    base, cohort = descriptor.base, descriptor.cohort
    for name, group, whole in (("base cohort", base, announced), ("cohort", cohort, set(base))):
        lead_must(list(group) == sorted(set(group)), "R8", f"the {name} must be sorted and unique")
        lead_must(set(group) <= whole, "R8", f"the {name} names sites that are not members")
    lead_must(site in cohort, "R8", f"{site} is not in the cohort")


def r8_threshold(context: AttemptContext, thresholds: Thresholds) -> None:
    """Check that the lead did not lower t, and that the cohort can reach it."""
    t, cohort = context.descriptor.threshold, len(context.cohort)
    lead_must(t >= thresholds.threshold, "R8", f"threshold {t} is below {thresholds.threshold}")
    lead_must(t <= cohort, "R8", f"a cohort of {cohort} cannot reach the threshold {t}")


def r8_signed(context: AttemptContext, thresholds: Thresholds) -> None:
    """Check that the lead did not disable required signatures."""
    needed = attempt_needs_signatures(context, thresholds)
    lead_must(context.descriptor.signed or not needed, "R8", "this cohort needs signed survivor lists")


def attempt_needs_signatures(context: AttemptContext, thresholds: Thresholds) -> bool:
    """Return whether this attempt's survivors must sign their list."""
    owners = tuple(len(context.owners(segment, context.cohort)) for segment in context.layout)
    thresholds = replace(thresholds, threshold=context.descriptor.threshold)
    shares = tuple(segment.shares for segment in context.layout)
    return needs_signatures(thresholds, len(context.cohort), owners, shares)


def r8_layout(context: AttemptContext, thresholds: Thresholds) -> None:
    """Check that segments are unique, have enough owners to hide each other, and room for all weights."""
    names = [segment.name for segment in context.layout]
    lead_must(len(set(names)) == len(names) > 0, "R8", "segments must have unique names")
    for segment in context.layout:
        owners = context.owners(segment, context.cohort)
        enough = len(owners) >= thresholds.min_owners
        lead_must(enough, "R8", f"tower {segment.tower} has {len(owners)} owners, needs {thresholds.min_owners}")
        base = context.owners(segment, context.descriptor.base)
        weight = sum(context.weights[site, segment.tower] for site in base)
        room = len(base) <= segment.sites and (segment.kind != "model" or weight <= segment.normaliser)
        lead_must(room, "R8", f"segment {segment.name} has no headroom for {len(base)} sites of weight {weight}")


def r8_own_layout(context: AttemptContext, own: Layout, thresholds: Thresholds) -> None:
    """Check that the layout is the one that this site derived itself, without the segments of too few owners."""
    expected = tuple(
        segment for segment in own if len(context.owners(segment, context.cohort)) >= thresholds.min_owners
    )
    lead_must(context.layout == expected, "R8", "the layout differs from the one that this site derived")


def r9_contributors(segment: Segment, total: Words, owners: Sequence[str]) -> None:
    """Check that the opened sum counts exactly the survivors that own the segment."""
    words = total[segment.length : segment.length + segment.count_words].astype(np.uint64)
    counted = words & np.uint64(2**segment.bits - 1)
    if not (counted == len(owners)).all():
        raise ProtocolViolationError(
            f"segment {segment.name} does not open to {len(owners)} contributions",
            "One of these sites masked with other keys than it dealt; no sum was made.",
            rule="R9",
            blame=tuple(owners),
        )
