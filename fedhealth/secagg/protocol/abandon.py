"""ABANDON: sites that have not answered UNMASK for an attempt promise that they never will.

The attempt's cohort has m sites, and t answers open it. Of m - t + c + 1 promises at most c are those of colluders; the
others leave fewer than t sites that may still answer, so the attempt can never open. Then every site of it, also one
that has answered, may mask the same vector again: nothing is trained, and nothing is booked. Since 2t > N + c, the
number of promises is never more than t.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from fedhealth.consortium.roster import Roster
from fedhealth.secagg.primitives.codec import MessageReader, MessageWriter
from fedhealth.secagg.primitives.keys import SIGNATURE_BYTES, is_signed_by
from fedhealth.secagg.protocol.messages import DIGEST_BYTES, LEAD, AttemptDescriptor, MessageKind

_LABEL = b"abandon"


@dataclass(frozen=True)
class AbandonRequest:
    """ABANDON, lead to site: never answer UNMASK for this attempt.

    `train` is its descriptor, for a site that may not have received it; empty for the others.
    """

    ctx: bytes
    train: bytes = b""

    def to_bytes(self) -> bytes:
        """Encode."""
        return MessageWriter(MessageKind.ABANDON).fixed_bytes(self.ctx, DIGEST_BYTES).blob(self.train).bytes()

    @classmethod
    def from_bytes(cls, data: bytes, sender: str = LEAD) -> Self:
        """Decode."""
        r = MessageReader(data, MessageKind.ABANDON, "abandon request", sender)
        found = cls(r.fixed_bytes(DIGEST_BYTES), r.blob())
        r.end()
        return found


@dataclass(frozen=True)
class Abandonment:
    """The reply to ABANDON: the site's signature over ctx."""

    ctx: bytes
    site: str
    signature: bytes

    def to_bytes(self) -> bytes:
        """Encode."""
        out = MessageWriter(MessageKind.ABANDONMENT).fixed_bytes(self.ctx, DIGEST_BYTES).text(self.site)
        return out.fixed_bytes(self.signature, SIGNATURE_BYTES).bytes()

    @classmethod
    def from_bytes(cls, data: bytes, sender: str) -> Self:
        """Decode."""
        r = MessageReader(data, MessageKind.ABANDONMENT, "abandonment", sender)
        found = cls(r.fixed_bytes(DIGEST_BYTES), r.site(), r.fixed_bytes(SIGNATURE_BYTES))
        r.end()
        return found


@dataclass(frozen=True)
class AbandonCertificate:
    """The promises of enough sites, shown to those that have answered. `signatures` holds (site, signature) pairs."""

    ctx: bytes
    signatures: tuple[tuple[str, bytes], ...]

    def to_bytes(self) -> bytes:
        """Encode."""
        out = MessageWriter(MessageKind.ABANDON_CERTIFICATE).fixed_bytes(self.ctx, DIGEST_BYTES)
        out.number(len(self.signatures), 4)
        for site, signature in self.signatures:
            out.text(site).fixed_bytes(signature, SIGNATURE_BYTES)
        return out.bytes()

    @classmethod
    def from_bytes(cls, data: bytes, sender: str = LEAD) -> Self:
        """Decode."""
        r = MessageReader(data, MessageKind.ABANDON_CERTIFICATE, "abandon certificate", sender)
        ctx = r.fixed_bytes(DIGEST_BYTES)
        found = cls(ctx, r.sequence(lambda: (r.site(), r.fixed_bytes(SIGNATURE_BYTES))))
        r.end()
        return found


def build_abandon_label(ctx: bytes) -> tuple[bytes, bytes]:
    """Return the parts that an abandonment signs."""
    return _LABEL, ctx


def compute_abandon_quorum(descriptor: AttemptDescriptor, colluders: int) -> int:
    """Return how many sites must abandon an attempt before it can never open: m - t + c + 1."""
    return len(descriptor.cohort) - descriptor.threshold + colluders + 1


def proves_abandonment(
    certificate: AbandonCertificate, ctx: bytes, descriptor: AttemptDescriptor, roster: Roster, colluders: int
) -> bool:
    """Return whether a certificate proves that the attempt with this ctx and descriptor can never open."""
    signed = {
        site
        for site, signature in certificate.signatures
        if site in descriptor.cohort and is_signed_by(roster.keys[site], signature, *build_abandon_label(ctx))
    }
    return certificate.ctx == ctx and len(signed) >= compute_abandon_quorum(descriptor, colluders)
