"""The messages, each with one strict byte encoding; parsing names the sender of anything malformed."""

from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property, lru_cache
from typing import Self

from fedhealth.secagg.primitives.codec import MessageReader, MessageWriter
from fedhealth.secagg.primitives.keys import KEY_BYTES, SIGNATURE_BYTES
from fedhealth.secagg.primitives.layout import Layout, Segment
from fedhealth.secagg.protocol.statement import NAME_BYTES, ShownNames
from fedhealth.secagg.protocol.vector_name import VectorName

DIGEST_BYTES = 32
CACHED_BYTES = 2**20  # of a descriptor, or a link, that is kept parsed
LEAD = "the lead"


class MessageKind(IntEnum):
    """The byte that identifies the type of a message."""

    ANNOUNCE = 1
    TRAIN = 2
    UPLOAD = 3
    SIGN = 4
    SURVIVOR_SIGNATURE = 5
    UNMASK = 6
    UNMASK_REPLY = 7
    ABANDON = 11
    ABANDONMENT = 12
    ABANDON_CERTIFICATE = 13
    HISTORY_LINK = 15


@dataclass(frozen=True)
class KeyAnnouncement:
    """ANNOUNCE, site to all: the key of this epoch and the towers that the site trains, with their public weights.

    `statement` is the site's own state statement, `shown` names those of the others that it keeps. `noise` and
    `statistics_noise` are the least noise multipliers that the site accepts in sums of models and of statistics whose
    noise is shared; 0 in other runs.
    """

    run: str
    roster_digest: bytes
    site: str
    epoch: int
    key: bytes
    towers: tuple[tuple[str, int], ...]
    statement: bytes
    shown: ShownNames
    signature: bytes = bytes(SIGNATURE_BYTES)
    noise: float = 0.0
    statistics_noise: float = 0.0

    def body(self) -> bytes:
        """Return the signed bytes."""
        out = (
            MessageWriter(MessageKind.ANNOUNCE)
            .text(self.run)
            .fixed_bytes(self.roster_digest, DIGEST_BYTES)
            .text(self.site)
        )
        out.number(self.epoch).fixed_bytes(self.key, KEY_BYTES).number(len(self.towers), 4)
        for tower, weight in self.towers:
            out.text(tower).number(weight)
        out.real(self.noise).real(self.statistics_noise).blob(self.statement).number(len(self.shown), 4)
        for site, names in self.shown:
            out.text(site).number(len(names), 4)
            for name in names:
                out.fixed_bytes(name, NAME_BYTES)
        return out.bytes()

    def get_shown_names(self, site: str) -> tuple[bytes, ...]:
        """Return the digests of the statements of a site that this member shows."""
        return self._shown_by_site.get(site, ())

    @cached_property
    def _shown_by_site(self) -> dict[str, tuple[bytes, ...]]:
        return dict(self.shown)

    def to_bytes(self) -> bytes:
        """Encode."""
        return self.body() + self.signature

    @classmethod
    def from_bytes(cls, data: bytes, sender: str) -> Self:
        """Decode."""
        r = MessageReader(data, MessageKind.ANNOUNCE, "announcement", sender)
        run, roster, site = r.text(), r.fixed_bytes(DIGEST_BYTES), r.site()
        epoch, key = r.number(), r.fixed_bytes(KEY_BYTES)
        towers = r.sequence(lambda: (r.text(), r.number()))
        noise, statistics, statement = r.real(), r.real(), r.blob()
        shown = r.sequence(lambda: (r.site(), r.sequence(lambda: r.fixed_bytes(NAME_BYTES))))
        signature = r.fixed_bytes(SIGNATURE_BYTES)
        found = cls(run, roster, site, epoch, key, towers, statement, shown, signature, noise, statistics)
        r.end()
        return found


@dataclass(frozen=True)
class AttemptDescriptor:
    """TRAIN, lead to site: everything that ctx binds. `members` are the announcements, sorted by site."""

    run: str
    config_digest: bytes
    roster_digest: bytes
    exchange: int
    attempt: int
    vector: VectorName
    history: bytes
    threshold: int
    signed: bool
    members: tuple[bytes, ...]
    base: tuple[str, ...]
    cohort: tuple[str, ...]
    model_digest: bytes
    training_digest: bytes
    layout: Layout

    def __hash__(self) -> int:
        return hash((self.run, self.exchange, self.attempt, self.history, self.model_digest, self.cohort))

    @property
    def vector_digest(self) -> bytes:
        """Return the SHA-256 of the run and the name of the vector."""
        return self.vector.digest(self.run)

    def to_bytes(self) -> bytes:
        """Encode."""
        out = MessageWriter(MessageKind.TRAIN).text(self.run)
        out.fixed_bytes(self.config_digest, DIGEST_BYTES).fixed_bytes(self.roster_digest, DIGEST_BYTES)
        out.number(self.exchange).number(self.attempt)
        self.vector.write_to(out)
        out.fixed_bytes(self.history, DIGEST_BYTES).number(self.threshold, 4).number(self.signed, 1)
        out.blobs(self.members).texts(self.base).texts(self.cohort)
        out.fixed_bytes(self.model_digest, DIGEST_BYTES).fixed_bytes(self.training_digest, DIGEST_BYTES)
        out.number(len(self.layout), 4)
        for segment in self.layout:
            segment.write_to(out)
        return out.bytes()

    @classmethod
    def from_bytes(cls, data: bytes, sender: str = LEAD) -> "AttemptDescriptor":
        """Decode; a descriptor is read several times in a round, so one of ordinary size is parsed once."""
        return (_parse_descriptor_once if len(data) <= CACHED_BYTES else _parse_descriptor)(data, sender)


def _parse_descriptor(data: bytes, sender: str) -> AttemptDescriptor:
    r = MessageReader(data, MessageKind.TRAIN, "attempt descriptor", sender)
    found = AttemptDescriptor(
        run=r.text(),
        config_digest=r.fixed_bytes(DIGEST_BYTES),
        roster_digest=r.fixed_bytes(DIGEST_BYTES),
        exchange=r.number(),
        attempt=r.number(),
        vector=VectorName.read_from(r),
        history=r.fixed_bytes(DIGEST_BYTES),
        threshold=r.number(4),
        signed=r.flag(),
        members=r.blobs(),
        base=r.sequence(r.site),
        cohort=r.sequence(r.site),
        model_digest=r.fixed_bytes(DIGEST_BYTES),
        training_digest=r.fixed_bytes(DIGEST_BYTES),
        layout=r.sequence(lambda: Segment.read_from(r)),
    )
    r.end()
    return found


_parse_descriptor_once = lru_cache(maxsize=8)(_parse_descriptor)


@dataclass(frozen=True)
class MaskedUpload:
    """UPLOAD, site to lead, without the masked vectors, which travel beside it as arrays.

    Args:
        ctx: the attempt.
        site: the sender.
        tags: one per other site of the cohort, in order; both sites of a pair send the same one.
        secret_commits: 16 bytes for each secret this site deals, joined.
        share_commits: for each site of the cohort 16 bytes for each share dealt to it, joined.
        envelopes: for each site of the cohort its shares, sealed to it.
        vectors: SHA-256 of each owned segment's packed bytes, in layout order.
        signature: by the sender's identity over all of the above.

    """

    ctx: bytes
    site: str
    tags: tuple[bytes, ...]
    secret_commits: bytes
    share_commits: tuple[bytes, ...]
    envelopes: tuple[bytes, ...]
    vectors: tuple[bytes, ...]
    signature: bytes = bytes(SIGNATURE_BYTES)

    def body(self) -> bytes:
        """Return the signed bytes."""
        out = MessageWriter(MessageKind.UPLOAD).fixed_bytes(self.ctx, DIGEST_BYTES).text(self.site)
        out.blobs(self.tags).blob(self.secret_commits).blobs(self.share_commits)
        return out.blobs(self.envelopes).blobs(self.vectors).bytes()

    def to_bytes(self) -> bytes:
        """Encode."""
        return self.body() + self.signature

    @classmethod
    def from_bytes(cls, data: bytes, sender: str) -> Self:
        """Decode."""
        r = MessageReader(data, MessageKind.UPLOAD, "upload", sender)
        ctx, site, tags, secret_commits = r.fixed_bytes(DIGEST_BYTES), r.site(), r.blobs(), r.blob()
        share_commits, envelopes, vectors = r.blobs(), r.blobs(), r.blobs()
        signature = r.fixed_bytes(SIGNATURE_BYTES)
        r.end()
        return cls(ctx, site, tags, secret_commits, share_commits, envelopes, vectors, signature)


@dataclass(frozen=True)
class SignRequest:
    """SIGN, lead to survivor: these sites' uploads are in the sum."""

    ctx: bytes
    survivors: tuple[str, ...]

    def to_bytes(self) -> bytes:
        """Encode."""
        return MessageWriter(MessageKind.SIGN).fixed_bytes(self.ctx, DIGEST_BYTES).texts(self.survivors).bytes()

    @classmethod
    def from_bytes(cls, data: bytes, sender: str = LEAD) -> Self:
        """Decode."""
        r = MessageReader(data, MessageKind.SIGN, "sign request", sender)
        found = cls(r.fixed_bytes(DIGEST_BYTES), r.sequence(r.site))
        r.end()
        return found


@dataclass(frozen=True)
class SurvivorSignature:
    """The reply to SIGN: the survivor's signature over ctx and the list."""

    ctx: bytes
    site: str
    signature: bytes

    def to_bytes(self) -> bytes:
        """Encode."""
        out = MessageWriter(MessageKind.SURVIVOR_SIGNATURE).fixed_bytes(self.ctx, DIGEST_BYTES).text(self.site)
        return out.fixed_bytes(self.signature, SIGNATURE_BYTES).bytes()

    @classmethod
    def from_bytes(cls, data: bytes, sender: str) -> Self:
        """Decode."""
        r = MessageReader(data, MessageKind.SURVIVOR_SIGNATURE, "survivor signature", sender)
        found = cls(r.fixed_bytes(DIGEST_BYTES), r.site(), r.fixed_bytes(SIGNATURE_BYTES))
        r.end()
        return found


@dataclass(frozen=True)
class UnmaskRequest:
    """UNMASK, lead to one survivor: the list, its signatures, and what each survivor sealed to the reader.

    Args:
        ctx: the attempt.
        survivors: the sites in the sum (U2); a list of those that dropped out is never sent.
        signatures: (site, signature) pairs over ctx and U2; empty when no signatures are needed.
        sealed: for each survivor its envelope to the reader.
        commits: for each survivor its commitments to the shares in that envelope.

    """

    ctx: bytes
    survivors: tuple[str, ...]
    signatures: tuple[tuple[str, bytes], ...]
    sealed: tuple[bytes, ...]
    commits: tuple[bytes, ...]

    def to_bytes(self) -> bytes:
        """Encode."""
        out = MessageWriter(MessageKind.UNMASK).fixed_bytes(self.ctx, DIGEST_BYTES).texts(self.survivors)
        out.number(len(self.signatures), 4)
        for site, signature in self.signatures:
            out.text(site).fixed_bytes(signature, SIGNATURE_BYTES)
        return out.blobs(self.sealed).blobs(self.commits).bytes()

    @classmethod
    def from_bytes(cls, data: bytes, sender: str = LEAD) -> Self:
        """Decode."""
        r = MessageReader(data, MessageKind.UNMASK, "unmask request", sender)
        ctx, survivors = r.fixed_bytes(DIGEST_BYTES), r.sequence(r.site)
        signatures = r.sequence(lambda: (r.site(), r.fixed_bytes(SIGNATURE_BYTES)))
        found = cls(ctx, survivors, signatures, r.blobs(), r.blobs())
        r.end()
        return found


@dataclass(frozen=True)
class UnmaskReply:
    """The reply to UNMASK: shares in the order of `list_unmask_slots`, for the segments that may be opened."""

    ctx: bytes
    site: str
    segments: tuple[str, ...]
    shares: bytes
    signature: bytes = bytes(SIGNATURE_BYTES)

    def body(self) -> bytes:
        """Return the signed bytes."""
        out = MessageWriter(MessageKind.UNMASK_REPLY).fixed_bytes(self.ctx, DIGEST_BYTES).text(self.site)
        return out.texts(self.segments).blob(self.shares).bytes()

    def to_bytes(self) -> bytes:
        """Encode."""
        return self.body() + self.signature

    @classmethod
    def from_bytes(cls, data: bytes, sender: str) -> Self:
        """Decode."""
        r = MessageReader(data, MessageKind.UNMASK_REPLY, "unmask reply", sender)
        found = cls(r.fixed_bytes(DIGEST_BYTES), r.site(), r.sequence(r.text), r.blob(), r.fixed_bytes(SIGNATURE_BYTES))
        r.end()
        return found
