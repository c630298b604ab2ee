"""The lead's steps up to the survivors: announcements, an attempt, and uploads folded into one sum as they arrive."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from fedhealth.consortium.roster import Roster
from fedhealth.secagg.primitives import packing
from fedhealth.secagg.primitives.field import ELEMENT_BYTES
from fedhealth.secagg.primitives.keys import signed_by
from fedhealth.secagg.primitives.packing import Bytes
from fedhealth.secagg.protocol import rules
from fedhealth.secagg.protocol.context import Context, verified, verified_members
from fedhealth.secagg.protocol.envelope import COMMIT_BYTES, NONCE_BYTES, TAG_BYTES, slots
from fedhealth.secagg.protocol.errors import RefusedError, refuse_unless
from fedhealth.secagg.protocol.layout import Layout, Words
from fedhealth.secagg.protocol.messages import Announcement, Directive, Upload
from fedhealth.secagg.protocol.threshold import Bounds, Policy, bounds

AEAD_TAG_BYTES = 16


@dataclass(frozen=True)
class Consortium:
    """What the lead knows of a run; the policy must be the sites' own or a stricter one."""

    run: str
    roster: Roster
    config_digest: bytes
    policy: Policy = field(default_factory=Policy)


@dataclass(frozen=True)
class Attempt:
    """One attempt in progress. The arrays in `sums` are folded in place; everything else is replaced.

    Args:
        context: what the attempt is about.
        uploads: accepted so far, by site.
        sums: running sum of each segment.
        conflicts: pairs whose tags differ.

    """

    context: Context
    uploads: Mapping[str, Upload]
    sums: Mapping[str, Words]
    conflicts: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Plan:
    """What the lead wants summed in an attempt; `base` and `cohort` are site ids, `threshold` may raise t."""

    exchange: int
    attempt: int
    base: Sequence[str]
    cohort: Sequence[str]
    layout: Layout
    model_digest: bytes
    training_digest: bytes
    threshold: int = 0
    signed: bool = False


class TagsDifferError(RefusedError):
    """An upload contradicts accepted ones.

    The newcomer is to blame when most contradict it; otherwise nobody can tell which of the pair lies.
    """

    def __init__(self, attempt: Attempt, sender: str, others: tuple[str, ...]) -> None:
        accepted = len(attempt.uploads)
        most = accepted > 1 and 2 * len(others) > accepted
        super().__init__(
            f"the tags of {sender} differ from those of {', '.join(others)}",
            "One of them used another key or saw another attempt.",
            blame=(sender,) if most else (sender, *others),
        )
        self.pairs = tuple((other, sender) for other in others)


def register(lead: Consortium, known: Mapping[str, Announcement], data: bytes, sender: str) -> Announcement:
    """Verify ANNOUNCE against the roster and against those known: epochs only rise."""
    found = verified(data, lead.roster, lead.run, sender)
    old = known.get(found.site)
    fresh = old is None or found.epoch > old.epoch or found == old
    refuse_unless(fresh, f"{found.site} announced an old epoch", rule="R8", blame=(sender,))
    return found


def propose(lead: Consortium, members: Mapping[str, Announcement], plan: Plan) -> Context:
    """Write TRAIN for an attempt; segments whose tower has too few owners in the cohort are left out."""
    limits = bounds(len(plan.base), lead.policy)
    blobs = tuple(members[site].to_bytes() for site in sorted(members))
    verified_members(blobs, lead.roster, lead.run)
    draft = Directive(
        run=lead.run,
        config_digest=lead.config_digest,
        roster_digest=lead.roster.digest,
        exchange=plan.exchange,
        attempt=plan.attempt,
        threshold=max(limits.threshold, plan.threshold),
        signed=plan.signed,
        members=blobs,
        base=tuple(sorted(plan.base)),
        cohort=tuple(sorted(plan.cohort)),
        model_digest=plan.model_digest,
        training_digest=plan.training_digest,
        layout=plan.layout,
    )
    whole = Context.of(draft)
    wanted = rules.open_segments(whole, draft.cohort, limits)
    layout = tuple(segment for segment in draft.layout if segment.name in wanted)
    open_towers = Context.of(replace(draft, layout=layout))
    signed = plan.signed or rules.signatures_needed(open_towers, limits)
    context = Context.of(replace(draft, layout=layout, signed=signed))
    rules.r8_threshold(context, limits)
    rules.r8_layout(context, limits)
    return context


def limits_of(lead: Consortium, context: Context) -> Bounds:
    """Return the numbers that follow from an attempt's base cohort."""
    return bounds(len(context.directive.base), lead.policy)


def begin(context: Context) -> Attempt:
    """Return an attempt that has received nothing."""
    sums: dict[str, Words] = {s.name: np.zeros(s.words, dtype=s.dtype) for s in context.layout}
    return Attempt(context, {}, sums)


def fold(lead: Consortium, attempt: Attempt, data: bytes, vectors: Mapping[str, Bytes], sender: str) -> Attempt:
    """Check an upload and add its vectors to the sums; `RefusedError` names who is to blame and changes no sum.

    Raises:
        TagsDifferError: a pair disagrees; pass it to `conflict`, so that `survivors` can tell whom to leave out.

    """
    found = Upload.from_bytes(data, sender)
    _check_upload(lead, attempt, found, sender)
    _check_vectors(attempt.context, found, vectors)
    differing = _differing_tags(attempt, found)
    if differing:
        raise TagsDifferError(attempt, sender, differing)
    for segment in attempt.context.owned(sender):
        packing.add_packed(attempt.sums[segment.name], vectors[segment.name], segment)
    return replace(attempt, uploads={**attempt.uploads, sender: found})


def conflict(attempt: Attempt, fault: TagsDifferError) -> Attempt:
    """Remember which accepted uploads a refused one contradicts."""
    return replace(attempt, conflicts=attempt.conflicts + fault.pairs)


def survivors(attempt: Attempt) -> tuple[str, ...]:
    """Return U2, everyone whose upload is in the sums; `RefusedError` when they are fewer than t."""
    found, least = tuple(sorted(attempt.uploads)), attempt.context.directive.threshold
    if len(found) >= least:
        return found
    missing = tuple(site for site in attempt.context.cohort if site not in attempt.uploads)
    degrees: dict[str, int] = {}
    for pair in attempt.conflicts:
        for site in pair:
            degrees[site] = degrees.get(site, 0) + 1
    worst = tuple(site for site, degree in degrees.items() if degree == max(degrees.values()))
    raise RefusedError(
        f"{len(found)} uploads are fewer than {least}; missing: {', '.join(missing)}",
        f"Start a new attempt without {', '.join(worst)}." if worst else "Start a new attempt, or wait.",
        blame=worst or missing,
    )


def _differing_tags(attempt: Attempt, found: Upload) -> tuple[str, ...]:
    """Return the accepted sites whose tag for this pair is another one."""
    cohort = attempt.context.cohort

    def tag(upload: Upload, peer: str) -> bytes:
        return upload.tags[[site for site in cohort if site != upload.site].index(peer)]

    uploads = attempt.uploads.items()
    return tuple(site for site, upload in uploads if tag(upload, found.site) != tag(found, site))


def _check_upload(lead: Consortium, attempt: Attempt, found: Upload, sender: str) -> None:
    """Check everything of UPLOAD that does not need the vectors."""
    context, who = attempt.context, (sender,)
    refuse_unless(found.site == sender, f"{sender} sent an upload of {found.site}", blame=who)
    refuse_unless(sender in context.cohort, f"{sender} is not in the attempt's cohort", blame=who)
    refuse_unless(sender not in attempt.uploads, f"{sender} uploaded twice", blame=who)
    refuse_unless(found.ctx == context.ctx, f"the upload of {sender} is for another attempt", blame=who)
    signed = signed_by(lead.roster.keys[sender], found.signature, b"upload", found.body())
    refuse_unless(signed, f"the upload of {sender} is not signed by its identity", blame=who)
    n, secrets = len(context.cohort), len(slots(context, sender))
    sealed = NONCE_BYTES + ELEMENT_BYTES * secrets + AEAD_TAG_BYTES
    shape = {
        "tags": (n - 1, TAG_BYTES),
        "share_commits": (n, COMMIT_BYTES * secrets),
        "envelopes": (n, sealed),
        "vectors": (len(context.owned(sender)), 32),
    }
    for name, (count, size) in shape.items():
        parts = getattr(found, name)
        right = len(parts) == count and all(len(part) == size for part in parts)
        refuse_unless(right, f"the {name} in the upload of {sender} have a wrong size", blame=who)
    right = len(found.secret_commits) == COMMIT_BYTES * secrets
    refuse_unless(right, f"the secret_commits in the upload of {sender} have a wrong size", blame=who)


def _check_vectors(context: Context, found: Upload, vectors: Mapping[str, Bytes]) -> None:
    """Check the masked vectors against the layout and against the signed digests."""
    owned, who = context.owned(found.site), (found.site,)
    right = set(vectors) == {segment.name for segment in owned}
    refuse_unless(right, f"{found.site} sent other segments than it owns", blame=who)
    for segment, digest in zip(owned, found.vectors, strict=True):
        vector = vectors[segment.name]
        right = vector.dtype == np.uint8 and vector.shape == (segment.wire_bytes,)
        right = right and vector.flags.c_contiguous
        refuse_unless(right, f"segment {segment.name} of {found.site} has a wrong size or type", blame=who)
        right = hashlib.sha256(vector.data).digest() == digest
        refuse_unless(right, f"segment {segment.name} of {found.site} is not what it signed", blame=who)
