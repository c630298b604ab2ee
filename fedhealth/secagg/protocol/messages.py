"""The messages, each with one strict byte encoding; parsing names the sender of anything malformed."""

from dataclasses import dataclass
from enum import IntEnum

from fedhealth.secagg.primitives.codec import Reader, Writer
from fedhealth.secagg.primitives.keys import KEY_BYTES, SIGNATURE_BYTES
from fedhealth.secagg.protocol.layout import Layout, Segment

DIGEST_BYTES = 32
LEAD = "the lead"


class Kind(IntEnum):
    """The byte that tells messages apart."""

    ANNOUNCE = 1
    TRAIN = 2
    UPLOAD = 3
    SIGN = 4
    ENDORSE = 5
    UNMASK = 6
    ANSWER = 7


@dataclass(frozen=True)
class Announcement:
    """ANNOUNCE, site to everybody: this epoch's key and the towers the site trains, with their public weights."""

    run: str
    roster_digest: bytes
    site: str
    epoch: int
    key: bytes
    towers: tuple[tuple[str, int], ...]
    signature: bytes = bytes(SIGNATURE_BYTES)

    def body(self) -> bytes:
        """Return what is signed."""
        out = Writer(Kind.ANNOUNCE).text(self.run).fixed(self.roster_digest, DIGEST_BYTES).text(self.site)
        out.number(self.epoch).fixed(self.key, KEY_BYTES).number(len(self.towers), 4)
        for tower, weight in self.towers:
            out.text(tower).number(weight)
        return out.bytes()

    def to_bytes(self) -> bytes:
        """Encode."""
        return self.body() + self.signature

    @classmethod
    def from_bytes(cls, data: bytes, sender: str) -> "Announcement":
        """Decode."""
        r = Reader(data, Kind.ANNOUNCE, "announcement", sender)
        run, roster, site = r.text(), r.fixed(DIGEST_BYTES), r.site()
        epoch, key = r.number(), r.fixed(KEY_BYTES)
        towers = r.several(lambda: (r.text(), r.number()))
        found = cls(run, roster, site, epoch, key, towers, r.fixed(SIGNATURE_BYTES))
        r.end()
        return found


@dataclass(frozen=True)
class Directive:
    """TRAIN, lead to site: everything that ctx binds. `members` are the announcements, sorted by site."""

    run: str
    config_digest: bytes
    roster_digest: bytes
    exchange: int
    attempt: int
    threshold: int
    signed: bool
    members: tuple[bytes, ...]
    base: tuple[str, ...]
    cohort: tuple[str, ...]
    model_digest: bytes
    training_digest: bytes
    layout: Layout

    def to_bytes(self) -> bytes:
        """Encode."""
        out = Writer(Kind.TRAIN).text(self.run)
        out.fixed(self.config_digest, DIGEST_BYTES).fixed(self.roster_digest, DIGEST_BYTES)
        out.number(self.exchange).number(self.attempt).number(self.threshold, 4).number(self.signed, 1)
        out.blobs(self.members).texts(self.base).texts(self.cohort)
        out.fixed(self.model_digest, DIGEST_BYTES).fixed(self.training_digest, DIGEST_BYTES)
        out.number(len(self.layout), 4)
        for segment in self.layout:
            segment.write(out)
        return out.bytes()

    @classmethod
    def from_bytes(cls, data: bytes, sender: str = LEAD) -> "Directive":
        """Decode."""
        r = Reader(data, Kind.TRAIN, "training directive", sender)
        found = cls(
            run=r.text(),
            config_digest=r.fixed(DIGEST_BYTES),
            roster_digest=r.fixed(DIGEST_BYTES),
            exchange=r.number(),
            attempt=r.number(),
            threshold=r.number(4),
            signed=r.flag(),
            members=r.several(r.blob),
            base=r.several(r.site),
            cohort=r.several(r.site),
            model_digest=r.fixed(DIGEST_BYTES),
            training_digest=r.fixed(DIGEST_BYTES),
            layout=r.several(lambda: Segment.read(r)),
        )
        r.end()
        return found


@dataclass(frozen=True)
class Upload:
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
        """Return what is signed."""
        out = Writer(Kind.UPLOAD).fixed(self.ctx, DIGEST_BYTES).text(self.site)
        out.blobs(self.tags).blob(self.secret_commits).blobs(self.share_commits)
        return out.blobs(self.envelopes).blobs(self.vectors).bytes()

    def to_bytes(self) -> bytes:
        """Encode."""
        return self.body() + self.signature

    @classmethod
    def from_bytes(cls, data: bytes, sender: str) -> "Upload":
        """Decode."""
        r = Reader(data, Kind.UPLOAD, "upload", sender)
        ctx, site, tags, secret_commits = r.fixed(DIGEST_BYTES), r.site(), r.several(r.blob), r.blob()
        share_commits, envelopes, vectors = r.several(r.blob), r.several(r.blob), r.several(r.blob)
        signature = r.fixed(SIGNATURE_BYTES)
        r.end()
        return cls(ctx, site, tags, secret_commits, share_commits, envelopes, vectors, signature)


@dataclass(frozen=True)
class SignRequest:
    """SIGN, lead to survivor: these sites' uploads are in the sum."""

    ctx: bytes
    survivors: tuple[str, ...]

    def to_bytes(self) -> bytes:
        """Encode."""
        return Writer(Kind.SIGN).fixed(self.ctx, DIGEST_BYTES).texts(self.survivors).bytes()

    @classmethod
    def from_bytes(cls, data: bytes, sender: str = LEAD) -> "SignRequest":
        """Decode."""
        r = Reader(data, Kind.SIGN, "sign request", sender)
        found = cls(r.fixed(DIGEST_BYTES), r.several(r.site))
        r.end()
        return found


@dataclass(frozen=True)
class Endorsement:
    """The answer to SIGN: the survivor's signature over ctx and the list."""

    ctx: bytes
    site: str
    signature: bytes

    def to_bytes(self) -> bytes:
        """Encode."""
        out = Writer(Kind.ENDORSE).fixed(self.ctx, DIGEST_BYTES).text(self.site)
        return out.fixed(self.signature, SIGNATURE_BYTES).bytes()

    @classmethod
    def from_bytes(cls, data: bytes, sender: str) -> "Endorsement":
        """Decode."""
        r = Reader(data, Kind.ENDORSE, "endorsement", sender)
        found = cls(r.fixed(DIGEST_BYTES), r.site(), r.fixed(SIGNATURE_BYTES))
        r.end()
        return found


@dataclass(frozen=True)
class UnmaskRequest:
    """UNMASK, lead to one survivor: the list, its signatures, and what each survivor sealed to the reader.

    Args:
        ctx: the attempt.
        survivors: U2; a list of those who dropped out is never sent.
        endorsements: (site, signature) pairs over ctx and U2; empty when no signatures are needed.
        sealed: for each survivor its envelope to the reader.
        commits: for each survivor its commitments to the shares in that envelope.

    """

    ctx: bytes
    survivors: tuple[str, ...]
    endorsements: tuple[tuple[str, bytes], ...]
    sealed: tuple[bytes, ...]
    commits: tuple[bytes, ...]

    def to_bytes(self) -> bytes:
        """Encode."""
        out = Writer(Kind.UNMASK).fixed(self.ctx, DIGEST_BYTES).texts(self.survivors)
        out.number(len(self.endorsements), 4)
        for site, signature in self.endorsements:
            out.text(site).fixed(signature, SIGNATURE_BYTES)
        return out.blobs(self.sealed).blobs(self.commits).bytes()

    @classmethod
    def from_bytes(cls, data: bytes, sender: str = LEAD) -> "UnmaskRequest":
        """Decode."""
        r = Reader(data, Kind.UNMASK, "unmask request", sender)
        ctx, survivors = r.fixed(DIGEST_BYTES), r.several(r.site)
        endorsements = r.several(lambda: (r.site(), r.fixed(SIGNATURE_BYTES)))
        found = cls(ctx, survivors, endorsements, r.several(r.blob), r.several(r.blob))
        r.end()
        return found


@dataclass(frozen=True)
class Answer:
    """The answer to UNMASK: shares in the order of `envelope.opened`, for the segments that may be opened."""

    ctx: bytes
    site: str
    segments: tuple[str, ...]
    shares: bytes
    signature: bytes = bytes(SIGNATURE_BYTES)

    def body(self) -> bytes:
        """Return what is signed."""
        out = Writer(Kind.ANSWER).fixed(self.ctx, DIGEST_BYTES).text(self.site)
        return out.texts(self.segments).blob(self.shares).bytes()

    def to_bytes(self) -> bytes:
        """Encode."""
        return self.body() + self.signature

    @classmethod
    def from_bytes(cls, data: bytes, sender: str) -> "Answer":
        """Decode."""
        r = Reader(data, Kind.ANSWER, "unmask answer", sender)
        found = cls(r.fixed(DIGEST_BYTES), r.site(), r.several(r.text), r.blob(), r.fixed(SIGNATURE_BYTES))
        r.end()
        return found
