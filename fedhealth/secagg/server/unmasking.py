"""The lead's steps from the survivors to the sums: signatures, unmask requests, replies, and opening."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from dataclasses import field as dataclass_field
from typing import Any

from numpy.typing import NDArray

from fedhealth.secagg.errors import ProtocolViolationError, refuse_unless
from fedhealth.secagg.primitives import field, masks, shamir
from fedhealth.secagg.primitives.keys import is_signed_by
from fedhealth.secagg.primitives.quantize import dequantize, sum_weights
from fedhealth.secagg.protocol import rules
from fedhealth.secagg.protocol.context import AttemptContext
from fedhealth.secagg.protocol.envelope import (
    COMMIT_BYTES,
    SecretSlot,
    commit_secret,
    commit_share,
    list_unmask_slots,
    select_mask_keys,
)
from fedhealth.secagg.protocol.history import HistoryLink, build_opening_label, digest_shares
from fedhealth.secagg.protocol.messages import DIGEST_BYTES, SignRequest, SurvivorSignature, UnmaskReply, UnmaskRequest
from fedhealth.secagg.server.server_protocol import AttemptState, ServerParameters


@dataclass(frozen=True)
class UnmaskingState:
    """An attempt whose survivors are fixed.

    Args:
        attempt: with all its uploads.
        survivors: the sites in the sum (U2).
        segments: those that may be opened.
        signatures: {site: signature} received.
        replies: {site: its shares, in the order of `envelope.list_unmask_slots`} received.
        openings: {site: (SHA-256 of its shares, signature)} of these replies.

    """

    attempt: AttemptState
    survivors: tuple[str, ...]
    segments: tuple[str, ...]
    signatures: Mapping[str, bytes]
    replies: Mapping[str, tuple[bytes, ...]]
    openings: Mapping[str, tuple[bytes, bytes]] = dataclass_field(default_factory=dict)

    @property
    def context(self) -> AttemptContext:
        """Return the context of the attempt."""
        return self.attempt.context

    @property
    def has_enough_signatures(self) -> bool:
        """Return whether enough survivors signed the list, or none need to."""
        descriptor = self.context.descriptor
        return not descriptor.signed or len(self.signatures) >= descriptor.threshold

    @property
    def has_enough_replies(self) -> bool:
        """Return whether enough survivors replied to open the sums."""
        return len(self.replies) >= self.context.descriptor.threshold


@dataclass(frozen=True)
class OpenedSums:
    """The result that the lead learns.

    Args:
        vectors: {segment: {entry: weighted mean, or sum of a statistic}}.
        contributors: {segment: the sites in it}.
        weights: {segment: W, the sum of their announced weights in examples}; mean times W is the weighted sum.
        skipped_segments: segments that stayed closed because too few owners survived, or whose owners weigh nothing.

    """

    vectors: dict[str, dict[str, NDArray[Any]]]
    contributors: dict[str, tuple[str, ...]]
    weights: dict[str, float]
    skipped_segments: tuple[str, ...]


def fix_survivors(lead: ServerParameters, attempt: AttemptState, survivors: tuple[str, ...]) -> UnmaskingState:
    """Fix the survivors; later uploads are refused."""
    segments = rules.select_open_segments(attempt.context, survivors, lead.thresholds)
    refuse_unless(bool(segments), "no segment has enough owners among the survivors", rule="R1")
    return UnmaskingState(attempt, survivors, segments, {}, {})


def build_sign_request(state: UnmaskingState) -> bytes:
    """Return SIGN, the same for every survivor."""
    return SignRequest(state.context.ctx, state.survivors).to_bytes()


def add_signature(lead: ServerParameters, state: UnmaskingState, data: bytes, sender: str) -> UnmaskingState:
    """Verify a survivor's signature and add it."""
    found, who = SurvivorSignature.from_bytes(data, sender), (sender,)
    right = found.site == sender and sender in state.survivors and found.ctx == state.context.ctx
    refuse_unless(right, f"the endorsement from {sender} is not for this attempt", blame=who)
    right = rules.is_survivor_list_signed(lead.roster, sender, found.signature, found.ctx, state.survivors)
    refuse_unless(right, f"the endorsement from {sender} is not signed by its identity", blame=who)
    return replace(state, signatures={**state.signatures, sender: found.signature})


def build_unmask_request(state: UnmaskingState, reader: str) -> bytes:
    """Return UNMASK for one survivor."""
    refuse_unless(state.has_enough_signatures, "too few survivors signed their list yet", rule="R1")
    at, uploads = state.context.cohort.index(reader), state.attempt.uploads
    return UnmaskRequest(
        ctx=state.context.ctx,
        survivors=state.survivors,
        signatures=tuple(sorted(state.signatures.items())),
        sealed=tuple(uploads[site].envelopes[at] for site in state.survivors),
        commits=tuple(uploads[site].share_commits[at] for site in state.survivors),
    ).to_bytes()


def add_unmask_reply(lead: ServerParameters, state: UnmaskingState, data: bytes, sender: str) -> UnmaskingState:
    """Verify a reply, each share against its dealer's commitment, and add it."""
    found, who = UnmaskReply.from_bytes(data, sender), (sender,)
    right = found.site == sender and sender in state.survivors and found.ctx == state.context.ctx
    refuse_unless(right, f"the answer from {sender} is not for this attempt", blame=who)
    digest = digest_shares(found.shares)
    label = build_opening_label(found.ctx, state.survivors, found.segments, digest)
    signed = is_signed_by(lead.roster.keys[sender], found.signature, *label)
    refuse_unless(signed, f"the answer from {sender} is not signed by its identity", blame=who)
    right = found.segments == state.segments
    refuse_unless(right, f"{sender} opens {found.segments}, expected {state.segments}", rule="R1", blame=who)
    expected = list_unmask_slots(state.context, state.survivors, state.segments)
    size = field.ELEMENT_BYTES
    refuse_unless(len(found.shares) == size * len(expected), f"{sender} sent a wrong number of shares", blame=who)
    shares = tuple(found.shares[at : at + size] for at in range(0, len(found.shares), size))
    position = state.context.cohort.index(sender)
    for (dealer, index, _), share in zip(expected, shares, strict=True):
        commits = state.attempt.uploads[dealer].share_commits[position]
        committed = commits[COMMIT_BYTES * index : COMMIT_BYTES * (index + 1)]
        right = commit_share(found.ctx, dealer, sender, index, share) == committed
        refuse_unless(right, f"{sender} sent a false share of {dealer}", blame=who)
    openings = {**state.openings, sender: (digest, found.signature)}
    return replace(state, replies={**state.replies, sender: shares}, openings=openings)


def build_link(state: UnmaskingState, sum_digest: bytes) -> HistoryLink:
    """Return the link of an opened sum, with an opening certificate of t signatures; its next digest is empty."""
    chosen = sorted(state.openings)[: state.context.descriptor.threshold]
    signatures = tuple((site, *state.openings[site]) for site in chosen)
    return HistoryLink(
        state.context.descriptor, state.survivors, state.segments, sum_digest, bytes(DIGEST_BYTES), signatures
    )


def open_sums(state: UnmaskingState, workers: int = 1) -> OpenedSums:
    """Recover the mask keys from t replies, remove the masks from the sums in place, check the counts, dequantize.

    Raises:
        ProtocolViolationError: too few replies, inconsistent shares of a dealer, or a wrong count (R9).

    """
    refuse_unless(state.has_enough_replies, f"only {len(state.replies)} survivors answered")
    recovered = _recover_secrets(state)
    context = state.context
    vectors, contributors, weights = {}, {}, {}
    for segment in context.layout:
        if segment.name not in state.segments:
            continue
        total = state.attempt.sums[segment.name]
        added, subtracted = select_mask_keys(context, recovered, segment.name)
        masks.apply_masks(total, plus=subtracted, minus=added, workers=workers)
        owners = context.owners(segment, state.survivors)
        rules.r9_contributors(segment, total, owners)
        announced = tuple(context.weights[site, segment.tower] for site in owners)
        if segment.kind == "model" and not sum(announced):
            continue
        vectors[segment.name] = dequantize(segment, total, sum(announced))
        contributors[segment.name], weights[segment.name] = owners, sum_weights(announced)
    skipped_segments = tuple(segment.name for segment in context.layout if segment.name not in vectors)
    return OpenedSums(vectors, contributors, weights, skipped_segments)


def _recover_secrets(state: UnmaskingState) -> dict[tuple[str, SecretSlot], bytes]:
    """Interpolate every opened secret; if one does not match its commitment, the error names its dealer."""
    context = state.context
    chosen = sorted(state.replies)[: context.descriptor.threshold]
    weights = field.compute_lagrange_weights([context.point(site) for site in chosen])
    found = {}
    for order, (dealer, index, slot) in enumerate(list_unmask_slots(context, state.survivors, state.segments)):
        try:
            shares = [field.decode_element(state.replies[site][order]) for site in chosen]
            secret = shamir.combine_weighted(weights, shares)
        except ValueError:
            secret = b""
        commits = state.attempt.uploads[dealer].secret_commits
        committed = commits[COMMIT_BYTES * index : COMMIT_BYTES * (index + 1)]
        if commit_secret(context.ctx, dealer, index, secret) != committed:
            raise ProtocolViolationError(
                f"the shares that {dealer} dealt do not belong together",
                f"Start the next exchange without {dealer}.",
                blame=(dealer,),
            )
        found[dealer, slot] = secret
    return found
