"""The lead's steps from the survivors to the sums: signatures, unmask requests, answers, and opening."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from fedhealth.secagg.primitives import field, masks, shamir
from fedhealth.secagg.primitives.keys import signed_by
from fedhealth.secagg.primitives.quantize import dequantise, total_weight
from fedhealth.secagg.protocol import rules
from fedhealth.secagg.protocol.context import Context
from fedhealth.secagg.protocol.envelope import COMMIT_BYTES, Slot, commit_secret, commit_shares, mask_keys, opened
from fedhealth.secagg.protocol.errors import RefusedError, refuse_unless
from fedhealth.secagg.protocol.messages import Answer, Endorsement, SignRequest, UnmaskRequest
from fedhealth.secagg.server.server_protocol import Attempt, Consortium, limits_of


@dataclass(frozen=True)
class Unmasking:
    """An attempt whose survivors are fixed.

    Args:
        attempt: with every upload it will ever have.
        survivors: U2.
        segments: those that U2 may open.
        endorsements: {site: signature} received.
        answers: {site: its shares, in the order of `envelope.opened`} received.

    """

    attempt: Attempt
    survivors: tuple[str, ...]
    segments: tuple[str, ...]
    endorsements: Mapping[str, bytes]
    answers: Mapping[str, tuple[bytes, ...]]

    @property
    def context(self) -> Context:
        """Return what the attempt is about."""
        return self.attempt.context

    @property
    def endorsed(self) -> bool:
        """Tell whether enough survivors signed the list, or none need to."""
        directive = self.context.directive
        return not directive.signed or len(self.endorsements) >= directive.threshold

    @property
    def answered(self) -> bool:
        """Tell whether enough survivors answered to open the sums."""
        return len(self.answers) >= self.context.directive.threshold


@dataclass(frozen=True)
class Opened:
    """What the lead learns.

    Args:
        vectors: {segment: {entry: weighted mean, or sum of a statistic}}.
        contributors: {segment: the sites in it}.
        weights: {segment: W, the sum of their announced weights in examples}; mean times W is the weighted sum.
        left_out: segments that stayed closed because too few owners survived, or whose owners weigh nothing.

    """

    vectors: dict[str, dict[str, NDArray[Any]]]
    contributors: dict[str, tuple[str, ...]]
    weights: dict[str, float]
    left_out: tuple[str, ...]


def close(lead: Consortium, attempt: Attempt, survivors: tuple[str, ...]) -> Unmasking:
    """Fix U2; later uploads are refused."""
    segments = rules.open_segments(attempt.context, survivors, limits_of(lead, attempt.context))
    refuse_unless(bool(segments), "no segment has enough owners among the survivors", rule="R1")
    return Unmasking(attempt, survivors, segments, {}, {})


def sign_request(state: Unmasking) -> bytes:
    """Return SIGN, the same for every survivor."""
    return SignRequest(state.context.ctx, state.survivors).to_bytes()


def add_endorsement(lead: Consortium, state: Unmasking, data: bytes, sender: str) -> Unmasking:
    """Check a survivor's signature and keep it."""
    found, who = Endorsement.from_bytes(data, sender), (sender,)
    right = found.site == sender and sender in state.survivors and found.ctx == state.context.ctx
    refuse_unless(right, f"the endorsement from {sender} is not for this attempt", blame=who)
    right = rules.endorsed(lead.roster, sender, found.signature, found.ctx, state.survivors)
    refuse_unless(right, f"the endorsement from {sender} is not signed by its identity", blame=who)
    return replace(state, endorsements={**state.endorsements, sender: found.signature})


def unmask_request(state: Unmasking, reader: str) -> bytes:
    """Return UNMASK for one survivor."""
    refuse_unless(state.endorsed, "too few survivors signed their list yet", rule="R1")
    at, uploads = state.context.cohort.index(reader), state.attempt.uploads
    return UnmaskRequest(
        ctx=state.context.ctx,
        survivors=state.survivors,
        endorsements=tuple(sorted(state.endorsements.items())),
        sealed=tuple(uploads[site].envelopes[at] for site in state.survivors),
        commits=tuple(uploads[site].share_commits[at] for site in state.survivors),
    ).to_bytes()


def add_answer(lead: Consortium, state: Unmasking, data: bytes, sender: str) -> Unmasking:
    """Check an answer, share by share against the dealers' commitments, and keep it."""
    found, who = Answer.from_bytes(data, sender), (sender,)
    right = found.site == sender and sender in state.survivors and found.ctx == state.context.ctx
    refuse_unless(right, f"the answer from {sender} is not for this attempt", blame=who)
    signed = signed_by(lead.roster.keys[sender], found.signature, b"answer", found.body())
    refuse_unless(signed, f"the answer from {sender} is not signed by its identity", blame=who)
    right = found.segments == state.segments
    refuse_unless(right, f"{sender} opens {found.segments}, expected {state.segments}", rule="R1", blame=who)
    expected = opened(state.context, state.survivors, state.segments)
    size = field.ELEMENT_BYTES
    refuse_unless(len(found.shares) == size * len(expected), f"{sender} sent a wrong number of shares", blame=who)
    shares = tuple(found.shares[at : at + size] for at in range(0, len(found.shares), size))
    position = state.context.cohort.index(sender)
    for (dealer, index, _), share in zip(expected, shares, strict=True):
        commits = state.attempt.uploads[dealer].share_commits[position]
        committed = commits[COMMIT_BYTES * index : COMMIT_BYTES * (index + 1)]
        right = commit_shares(found.ctx, dealer, sender, [share], first=index) == committed
        refuse_unless(right, f"{sender} sent a false share of {dealer}", blame=who)
    return replace(state, answers={**state.answers, sender: shares})


def finish(state: Unmasking, workers: int = 1) -> Opened:
    """Recover the mask keys from t answers, take the masks off the sums in place, check the counts, dequantise.

    Raises:
        RefusedError: too few answers, a dealer whose shares do not belong together, or a wrong count (R9).

    """
    refuse_unless(state.answered, f"only {len(state.answers)} survivors answered")
    recovered = _recover(state)
    context = state.context
    vectors, contributors, weights = {}, {}, {}
    for segment in context.layout:
        if segment.name not in state.segments:
            continue
        total = state.attempt.sums[segment.name]
        added, subtracted = mask_keys(recovered, segment.name)
        masks.apply(total, plus=subtracted, minus=added, workers=workers)
        owners = context.owners(segment, state.survivors)
        rules.r9_contributors(segment, total, owners)
        announced = tuple(context.weights[site, segment.tower] for site in owners)
        if segment.kind == "model" and not sum(announced):
            continue
        vectors[segment.name] = dequantise(segment, total, sum(announced))
        contributors[segment.name], weights[segment.name] = owners, total_weight(announced)
    left_out = tuple(segment.name for segment in context.layout if segment.name not in vectors)
    return Opened(vectors, contributors, weights, left_out)


def _recover(state: Unmasking) -> dict[tuple[str, Slot], bytes]:
    """Interpolate every opened secret; one that misses its commitment names its dealer."""
    context = state.context
    chosen = sorted(state.answers)[: context.directive.threshold]
    weights = field.lagrange_at_zero([context.point(site) for site in chosen])
    found = {}
    for order, (dealer, index, slot) in enumerate(opened(context, state.survivors, state.segments)):
        try:
            shares = [field.from_bytes(state.answers[site][order]) for site in chosen]
            secret = shamir.combine_weighted(weights, shares)
        except ValueError:
            secret = b""
        commits = state.attempt.uploads[dealer].secret_commits
        committed = commits[COMMIT_BYTES * index : COMMIT_BYTES * (index + 1)]
        if commit_secret(context.ctx, dealer, index, secret) != committed:
            raise RefusedError(
                f"the shares that {dealer} dealt do not belong together",
                f"Start the next exchange without {dealer}.",
                blame=(dealer,),
            )
        found[dealer, slot] = secret
    return found
