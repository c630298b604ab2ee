"""The history of a run: which sums were opened, in which order, and what came of each; ctx binds it.

H_0 is a digest of the run, its configuration, the members' keys and the initial model, which every site computes
itself. H_k is a digest of H_(k-1), the attempt, its survivors, the opened segments, the sum, and the next model. Only
opened sums are links. The proof is the opening certificate: t sites that have answered UNMASK signed the attempt, the
survivors, the segments and their shares. So a lead cannot show some sites rounds that were never opened.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from fedhealth.consortium.roster import Roster
from fedhealth.secagg.errors import refuse_unless
from fedhealth.secagg.primitives.codec import MessageReader, MessageWriter
from fedhealth.secagg.primitives.keys import SIGNATURE_BYTES, is_signed_by
from fedhealth.secagg.protocol.context import digest_attempt
from fedhealth.secagg.protocol.messages import CACHED_BYTES, DIGEST_BYTES, LEAD, AttemptDescriptor, MessageKind
from fedhealth.utils.digest import digest_parts, encode_parts

RULE = "R12"


@dataclass(frozen=True)
class HistoryLink:
    """One opened sum.

    Args:
        descriptor: of the attempt; it holds the history before.
        survivors: the sites in the sum.
        segments: the opened ones.
        sum_digest: SHA-256 of what the lead computed from the sum.
        next_digest: SHA-256 of the arrays that the next request brings.
        signatures: (site, SHA-256 of its shares, signature) of sites that have answered UNMASK.

    """

    descriptor: AttemptDescriptor
    survivors: tuple[str, ...]
    segments: tuple[str, ...]
    sum_digest: bytes
    next_digest: bytes
    signatures: tuple[tuple[str, bytes, bytes], ...]

    @cached_property
    def head(self) -> bytes:
        """Return the history after this link."""
        return digest_parts(
            b"fedhealth history 1",
            self.descriptor.history,
            digest_attempt(self.descriptor),
            *_encode_lists(self.survivors, self.segments),
            self.sum_digest,
            self.next_digest,
        )

    def to_bytes(self) -> bytes:
        """Encode."""
        out = MessageWriter(MessageKind.HISTORY_LINK).blob(self.descriptor.to_bytes())
        out.texts(self.survivors).texts(self.segments)
        out.fixed_bytes(self.sum_digest, DIGEST_BYTES).fixed_bytes(self.next_digest, DIGEST_BYTES)
        out.number(len(self.signatures), 4)
        for site, shares, signature in self.signatures:
            out.text(site).fixed_bytes(shares, DIGEST_BYTES).fixed_bytes(signature, SIGNATURE_BYTES)
        return out.bytes()

    @classmethod
    def from_bytes(cls, data: bytes, sender: str = LEAD) -> HistoryLink:
        """Decode; three requests bring the same link, to all virtual sites of a process: it is parsed once."""
        return (_parse_link_once if len(data) <= CACHED_BYTES else _parse_link)(data, sender)


def _parse_link(data: bytes, sender: str) -> HistoryLink:
    r = MessageReader(data, MessageKind.HISTORY_LINK, "history link", sender)
    descriptor = AttemptDescriptor.from_bytes(r.blob(), sender)
    survivors, segments = r.sequence(r.site), r.sequence(r.text)
    digests = r.fixed_bytes(DIGEST_BYTES), r.fixed_bytes(DIGEST_BYTES)
    signatures = r.sequence(lambda: (r.site(), r.fixed_bytes(DIGEST_BYTES), r.fixed_bytes(SIGNATURE_BYTES)))
    r.end()
    return HistoryLink(descriptor, survivors, segments, *digests, signatures)


_parse_link_once = lru_cache(maxsize=8)(_parse_link)


def compute_history_start(run: str, config_digest: bytes, roster: Roster, initial_digest: bytes) -> bytes:
    """Return H_0."""
    return digest_parts(b"fedhealth history start 1", run.encode(), config_digest, roster.digest, initial_digest)


def build_opening_label(
    ctx: bytes, survivors: Sequence[str], segments: Sequence[str], shares: bytes
) -> tuple[bytes, ...]:
    """Return the parts that a reply to UNMASK signs; `shares` is the SHA-256 of its shares."""
    return (b"unmask reply", ctx, *_encode_lists(survivors, segments), shares)


def digest_shares(shares: bytes) -> bytes:
    """Return the SHA-256 of the shares of one reply."""
    return hashlib.sha256(shares).digest()


def verify_link(
    link: HistoryLink, run: str, config_digest: bytes, roster: Roster, members: Collection[str], threshold: int
) -> None:
    """Check that a link is of this run and that its sum was opened; raises `ProtocolViolationError`.

    Args:
        link: as received.
        run: the run's id.
        config_digest: of the job that this site accepted.
        roster: the approved members.
        members: of the run.
        threshold: t as computed by the site.

    """
    descriptor = link.descriptor
    own = (descriptor.run, descriptor.config_digest, descriptor.roster_digest) == (run, config_digest, roster.digest)
    refuse_unless(own, "a history link belongs to another run", rule=RULE, blame=(LEAD,))
    sound = set(link.survivors) <= set(descriptor.cohort) <= set(descriptor.base) <= set(members)
    refuse_unless(sound, "a history link is about a sum that no site would open", rule=RULE, blame=(LEAD,))
    signed = _count_signers(link, roster)
    enough = signed >= max(threshold, descriptor.threshold)
    refuse_unless(enough, f"{signed} sites signed that a sum was opened", rule=RULE, blame=(LEAD,))


@lru_cache(maxsize=8)
def _count_signers(link: HistoryLink, roster: Roster) -> int:
    """Return how many survivors signed that the sum was opened; virtual sites of a process get the same link."""
    ctx = digest_attempt(link.descriptor)
    signed = {
        site
        for site, shares, signature in link.signatures
        if site in link.survivors
        and site in roster.keys
        and is_signed_by(roster.keys[site], signature, *build_opening_label(ctx, link.survivors, link.segments, shares))
    }
    return len(signed)


def _encode_lists(*lists: Sequence[str]) -> tuple[bytes, ...]:
    return tuple(encode_parts(*(each.encode() for each in names)) for names in lists)
