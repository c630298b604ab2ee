"""The lead's protocol steps up to the survivors: announcements, attempts, and uploads added to one sum."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from fedhealth.consortium.roster import Roster
from fedhealth.secagg.errors import ProtocolViolationError, refuse_unless
from fedhealth.secagg.primitives import packing
from fedhealth.secagg.primitives.field import ELEMENT_BYTES
from fedhealth.secagg.primitives.keys import is_signed_by
from fedhealth.secagg.primitives.layout import Layout, Words
from fedhealth.secagg.primitives.packing import PackedWords
from fedhealth.secagg.protocol import rules
from fedhealth.secagg.protocol.context import AttemptContext, verify_announcement, verify_announcements
from fedhealth.secagg.protocol.envelope import COMMIT_BYTES, NONCE_BYTES, TAG_BYTES, count_slots
from fedhealth.secagg.protocol.messages import AttemptDescriptor, KeyAnnouncement, MaskedUpload
from fedhealth.secagg.protocol.statement import MAX_NOTICE_BYTES
from fedhealth.secagg.protocol.threshold import ThresholdPolicy, Thresholds, compute_thresholds
from fedhealth.secagg.protocol.vector_name import VectorName

AEAD_TAG_BYTES = 16


@dataclass(frozen=True)
class ServerParameters:
    """The lead's parameters of a run; the policy must be at least as strict as the sites'.

    `members` are the sites of the run; None if all of the roster are.
    """

    run: str
    roster: Roster
    config_digest: bytes
    policy: ThresholdPolicy = field(default_factory=ThresholdPolicy)
    members: tuple[str, ...] | None = None

    @property
    def thresholds(self) -> Thresholds:
        """Return the thresholds of the run, the same for all cohorts; `ProtocolViolationError` for too few members."""
        approved = len(self.roster.members)
        return compute_thresholds(approved if self.members is None else len(self.members), self.policy, approved)


@dataclass(frozen=True)
class AttemptState:
    """One attempt in progress. The arrays in `sums` are updated in place; all other fields are replaced.

    Args:
        context: of the attempt.
        uploads: accepted so far, by site.
        sums: running sum of each segment.
        conflicts: pairs whose tags differ.

    """

    context: AttemptContext
    uploads: Mapping[str, MaskedUpload]
    sums: Mapping[str, Words]
    conflicts: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class AttemptPlan:
    """Parameters of an attempt; `base` and `cohort` are site ids, `threshold` may raise t."""

    exchange: int
    attempt: int
    vector: VectorName
    history: bytes
    base: Sequence[str]
    cohort: Sequence[str]
    layout: Layout
    model_digest: bytes
    training_digest: bytes
    threshold: int = 0
    signed: bool = False


class TagsDifferError(ProtocolViolationError):
    """The tags of an upload differ from those of accepted uploads.

    The sender is blamed if most differ from it; otherwise both sites of each pair, because either may be wrong.
    """

    def __init__(self, attempt: AttemptState, sender: str, others: tuple[str, ...]) -> None:
        accepted = len(attempt.uploads)
        most = accepted > 1 and 2 * len(others) > accepted
        super().__init__(
            f"the tags of {sender} differ from those of {', '.join(others)}",
            "One of them used another key or saw another attempt.",
            blame=(sender,) if most else (sender, *others),
        )
        self.pairs = tuple((other, sender) for other in others)


def register_announcement(
    lead: ServerParameters, known: Mapping[str, KeyAnnouncement], data: bytes, sender: str
) -> KeyAnnouncement:
    """Verify ANNOUNCE against the roster and the known announcements; epochs only increase."""
    found = verify_announcement(data, lead.roster, lead.run, sender)
    old = known.get(found.site)
    fresh = old is None or found.epoch > old.epoch or found == old
    refuse_unless(fresh, f"{found.site} announced an old epoch", rule="R8", blame=(sender,))
    return found


def propose_attempt(
    lead: ServerParameters, members: Mapping[str, KeyAnnouncement], plan: AttemptPlan
) -> AttemptContext:
    """Build TRAIN for an attempt; segments whose tower has too few owners in the cohort are skipped."""
    thresholds = lead.thresholds
    blobs = tuple(members[site].to_bytes() for site in sorted(members))
    verify_announcements(blobs, lead.roster, lead.run)
    draft = AttemptDescriptor(
        run=lead.run,
        config_digest=lead.config_digest,
        roster_digest=lead.roster.digest,
        exchange=plan.exchange,
        attempt=plan.attempt,
        vector=plan.vector,
        history=plan.history,
        threshold=max(thresholds.threshold, plan.threshold),
        signed=plan.signed,
        members=blobs,
        base=tuple(sorted(plan.base)),
        cohort=tuple(sorted(plan.cohort)),
        model_digest=plan.model_digest,
        training_digest=plan.training_digest,
        layout=plan.layout,
    )
    whole = AttemptContext.from_descriptor(draft)
    wanted = rules.select_open_segments(whole, draft.cohort, thresholds)
    layout = tuple(segment for segment in draft.layout if segment.name in wanted)
    open_towers = AttemptContext.from_descriptor(replace(draft, layout=layout))
    signed = plan.signed or rules.attempt_needs_signatures(open_towers, thresholds)
    final = replace(draft, layout=layout, signed=signed)
    # as the sites read it: virtual sites of this process then find the same object, not an equal one
    context = AttemptContext.from_descriptor(AttemptDescriptor.from_bytes(final.to_bytes()))
    rules.r8_threshold(context, thresholds)
    rules.r8_layout(context, thresholds)
    return context


def start_attempt(context: AttemptContext) -> AttemptState:
    """Return an attempt without uploads."""
    sums: dict[str, Words] = {s.name: np.zeros(s.words, dtype=s.dtype) for s in context.layout}
    return AttemptState(context, {}, sums)


def add_upload(
    lead: ServerParameters, attempt: AttemptState, data: bytes, vectors: Mapping[str, PackedWords], sender: str
) -> AttemptState:
    """Check an upload and add its vectors to the sums; a `ProtocolViolationError` leaves the sums unchanged.

    Raises:
        TagsDifferError: the tags of a pair differ; pass it to `record_conflict`, so that `find_survivors` can blame.

    """
    found = MaskedUpload.from_bytes(data, sender)
    _check_upload(lead, attempt, found, sender)
    _check_vectors(attempt.context, found, vectors)
    differing = _find_differing_tags(attempt, found)
    if differing:
        raise TagsDifferError(attempt, sender, differing)
    for segment in attempt.context.owned_segments(sender):
        packing.add_packed(attempt.sums[segment.name], vectors[segment.name], segment)
    return replace(attempt, uploads={**attempt.uploads, sender: found})


def record_conflict(attempt: AttemptState, fault: TagsDifferError) -> AttemptState:
    """Record which accepted uploads have other tags than a refused one."""
    return replace(attempt, conflicts=attempt.conflicts + fault.pairs)


def find_survivors(attempt: AttemptState) -> tuple[str, ...]:
    """Return the survivors (U2), whose uploads are in the sums; `ProtocolViolationError` if fewer than t."""
    found, least = tuple(sorted(attempt.uploads)), attempt.context.descriptor.threshold
    if len(found) >= least:
        return found
    missing = tuple(site for site in attempt.context.cohort if site not in attempt.uploads)
    degrees: dict[str, int] = {}
    for pair in attempt.conflicts:
        for site in pair:
            degrees[site] = degrees.get(site, 0) + 1
    worst = tuple(site for site, degree in degrees.items() if degree == max(degrees.values()))
    raise ProtocolViolationError(
        f"{len(found)} uploads are fewer than {least}; missing: {', '.join(missing)}",
        f"Start a new attempt without {', '.join(worst)}." if worst else "Start a new attempt, or wait.",
        blame=worst or missing,
    )


def _find_differing_tags(attempt: AttemptState, found: MaskedUpload) -> tuple[str, ...]:
    """Return the accepted sites whose tag for the pair differs."""
    places = {site: place for place, site in enumerate(attempt.context.cohort)}
    own = places[found.site]

    def tag(upload: MaskedUpload, at: int, peer: int) -> bytes:
        return upload.tags[peer - (peer > at)]  # an upload has no tag for its own site

    return tuple(
        site
        for site, upload in attempt.uploads.items()
        if tag(upload, places[site], own) != tag(found, own, places[site])
    )


def _check_upload(lead: ServerParameters, attempt: AttemptState, found: MaskedUpload, sender: str) -> None:
    """Check all parts of UPLOAD except the vectors."""
    context, who = attempt.context, (sender,)
    refuse_unless(found.site == sender, f"{sender} sent an upload of {found.site}", blame=who)
    refuse_unless(sender in context.cohort, f"{sender} is not in the attempt's cohort", blame=who)
    refuse_unless(sender not in attempt.uploads, f"{sender} uploaded twice", blame=who)
    refuse_unless(found.ctx == context.ctx, f"the upload of {sender} is for another attempt", blame=who)
    signed = is_signed_by(lead.roster.keys[sender], found.signature, b"upload", found.body())
    refuse_unless(signed, f"the upload of {sender} is not signed by its identity", blame=who)
    n, secrets = len(context.cohort), count_slots(context, sender)
    sealed = NONCE_BYTES + ELEMENT_BYTES * secrets + AEAD_TAG_BYTES
    shape = {
        "tags": (n - 1, TAG_BYTES),
        "share_commits": (n, COMMIT_BYTES * secrets),
        "vectors": (len(context.owned_segments(sender)), 32),
    }
    for name, (count, size) in shape.items():
        parts = getattr(found, name)
        right = len(parts) == count and all(len(part) == size for part in parts)
        refuse_unless(right, f"the {name} in the upload of {sender} have a wrong size", blame=who)
    right = len(found.envelopes) == n and all(
        sealed <= len(part) <= sealed + MAX_NOTICE_BYTES for part in found.envelopes
    )
    refuse_unless(right, f"the envelopes in the upload of {sender} have a wrong size", blame=who)
    right = len(found.secret_commits) == COMMIT_BYTES * secrets
    refuse_unless(right, f"the secret_commits in the upload of {sender} have a wrong size", blame=who)


def _check_vectors(context: AttemptContext, found: MaskedUpload, vectors: Mapping[str, PackedWords]) -> None:
    """Check the masked vectors against the layout and against the signed digests."""
    owned, who = context.owned_segments(found.site), (found.site,)
    right = set(vectors) == {segment.name for segment in owned}
    refuse_unless(right, f"{found.site} sent other segments than it owns", blame=who)
    for segment, digest in zip(owned, found.vectors, strict=True):
        vector = vectors[segment.name]
        right = vector.dtype == np.uint8 and vector.shape == (segment.wire_bytes,)
        right = right and vector.flags.c_contiguous
        refuse_unless(right, f"segment {segment.name} of {found.site} has a wrong size or type", blame=who)
        right = hashlib.sha256(vector.data).digest() == digest
        refuse_unless(right, f"segment {segment.name} of {found.site} is not what it signed", blame=who)
