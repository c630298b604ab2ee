"""The context of an attempt: its descriptor, the verified announcements, and `ctx`, the digest in every label."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache

from fedhealth.consortium.roster import Roster
from fedhealth.secagg.errors import ProtocolViolationError, refuse_unless
from fedhealth.secagg.primitives.codec import PROTOCOL, MessageWriter
from fedhealth.secagg.primitives.keys import is_low_order, is_signed_by
from fedhealth.secagg.primitives.layout import NAME, Layout, Segment
from fedhealth.secagg.protocol.messages import LEAD, AttemptDescriptor, KeyAnnouncement
from fedhealth.secagg.protocol.statement import verify_shown_names, verify_statement
from fedhealth.utils.digest import digest_parts, encode_parts

_MOST_NOISE = 1e6  # a noise multiplier; far above what any budget needs
_CACHED_BYTES = 2**20  # of the announcements of a context that is kept


def verify_announcement(data: bytes, roster: Roster, run: str, sender: str) -> KeyAnnouncement:
    """Decode an announcement and verify its origin; `ProtocolViolationError` blames the claimed site or the sender."""
    found = KeyAnnouncement.from_bytes(data, sender)
    site = found.site
    who = (site,) if sender == site else (sender, site)
    refuse_unless(site in roster.keys, f"{site} is not an approved member", rule="R8", blame=who)
    authentic = is_signed_by(roster.keys[site], found.signature, b"announce", found.body())
    refuse_unless(authentic, f"the announcement of {site} is not signed by its approved identity", blame=who)
    refuse_unless(found.run == run, f"the announcement of {site} belongs to another run", blame=who)
    refuse_unless(
        found.roster_digest == roster.digest, f"{site} approved another list of members", rule="R8", blame=who
    )
    own = verify_statement(found.statement, roster, site)
    refuse_unless(own.site == site, f"{site} announced a statement of {own.site}", rule="R13", blame=who)
    verify_shown_names(found.shown, site)
    refuse_unless(not is_low_order(found.key), f"the key of {site} is of low order", blame=who)
    towers = [tower for tower, _ in found.towers]
    sound = towers == sorted(set(towers)) and all(NAME.fullmatch(tower) for tower in towers)
    sound = sound and all(weight < 2**55 for _, weight in found.towers)
    sound = sound and all(0 <= noise < _MOST_NOISE for noise in (found.noise, found.statistics_noise))
    refuse_unless(sound, f"{site} announced malformed towers or weights", blame=who)
    return found


@lru_cache(maxsize=4)
def verify_announcements(
    blobs: tuple[bytes, ...], roster: Roster, run: str, sender: str = LEAD
) -> tuple[KeyAnnouncement, ...]:
    """Verify a descriptor's announcements: sorted, unique sites, unique keys.

    Cached, because every exchange brings the same ones, and to all virtual sites of a process.
    """
    members = tuple(verify_announcement(blob, roster, run, sender) for blob in blobs)
    sites = [member.site for member in members]
    refuse_unless(sites == sorted(set(sites)), "members must be sorted and unique", rule="R8", blame=(sender,))
    seen: dict[bytes, str] = {}
    for member in members:
        other = seen.setdefault(member.key, member.site)
        if other != member.site:
            raise ProtocolViolationError(
                f"{other} and {member.site} announced the same key", blame=(other, member.site)
            )
    return members


@lru_cache(maxsize=8)
def digest_attempt(descriptor: AttemptDescriptor) -> bytes:
    """Return the SHA-256 of everything that lead and sites must agree on."""
    layout = MessageWriter(0)
    for segment in descriptor.layout:
        segment.write_to(layout)
    numbers = (descriptor.exchange, descriptor.attempt, descriptor.threshold, int(descriptor.signed))
    parts = (
        PROTOCOL,
        descriptor.run.encode(),
        descriptor.config_digest,
        descriptor.roster_digest,
        *(number.to_bytes(8, "little") for number in numbers),
        descriptor.vector_digest,
        descriptor.history,
        encode_parts(*descriptor.members),
        encode_parts(*(site.encode() for site in descriptor.base)),
        encode_parts(*(site.encode() for site in descriptor.cohort)),
        descriptor.model_digest,
        descriptor.training_digest,
        layout.bytes(),
    )
    return digest_parts(*parts)


@dataclass(frozen=True)
class MaskGroup:
    """Segments whose masks come from the same secrets, because they are opened together or not at all.

    Which segments are opened follows from their owners among the survivors, and from the shares of the noise that they
    count on. So segments with the same owners and shares need one secret for each pair of owners, not one each.

    Args:
        name: of the first segment.
        segments: names, in layout order.
        owners: the sites of the cohort that contribute, in order.

    """

    name: str
    segments: tuple[str, ...]
    owners: tuple[str, ...]


@dataclass(frozen=True)
class AttemptContext:
    """One attempt, as known to lead and sites. Built from a descriptor whose members were verified."""

    descriptor: AttemptDescriptor
    members: tuple[KeyAnnouncement, ...]
    ctx: bytes

    def __hash__(self) -> int:
        return hash(self.ctx)

    @classmethod
    def from_descriptor(cls, descriptor: AttemptDescriptor) -> "AttemptContext":
        """Return the context; raises `ProtocolViolationError` for malformed announcements.

        It is asked for several times in a round, so one of ordinary size is built once.
        """
        is_ordinary = sum(map(len, descriptor.members)) <= _CACHED_BYTES
        return (_build_context_once if is_ordinary else _build_context)(descriptor)

    @property
    def layout(self) -> Layout:
        """Return the segments."""
        return self.descriptor.layout

    @property
    def cohort(self) -> tuple[str, ...]:
        """Return the sites of this attempt, sorted."""
        return self.descriptor.cohort

    @cached_property
    def weights(self) -> dict[tuple[str, str], int]:
        """Return {(site, tower): announced weight} of all members."""
        return {(m.site, tower): weight for m in self.members for tower, weight in m.towers}

    @cached_property
    def groups(self) -> tuple[MaskGroup, ...]:
        """Return the mask groups, in the order of their first segments."""
        found: dict[tuple[tuple[str, ...], int], list[str]] = {}
        for segment in self.layout:
            found.setdefault((self.owners(segment, self.cohort), segment.shares), []).append(segment.name)
        return tuple(MaskGroup(names[0], tuple(names), owners) for (owners, _), names in found.items())

    def get_group(self, segment: str) -> str:
        """Return the name of a segment's mask group."""
        return self._group_names[segment]

    def owners(self, segment: Segment, among: Iterable[str]) -> tuple[str, ...]:
        """Return the sites among these that contribute to the segment."""
        owners = self._owners.get(segment.tower, frozenset())
        return tuple([site for site in among if site in owners])

    def owned_segments(self, site: str) -> tuple[Segment, ...]:
        """Return the segments a site contributes to, in layout order."""
        return tuple(segment for segment in self.layout if (site, segment.tower) in self.weights)

    def point(self, site: str) -> int:
        """Return the x at which a site of the cohort receives its shares."""
        return self.cohort.index(site) + 1

    @cached_property
    def _owners(self) -> dict[str, frozenset[str]]:
        """{tower: the members that announced it}."""
        towers = {tower for _, tower in self.weights}
        return {tower: frozenset(site for site, owned in self.weights if owned == tower) for tower in towers}

    @cached_property
    def _group_names(self) -> dict[str, str]:
        return {segment: group.name for group in self.groups for segment in group.segments}


def _build_context(descriptor: AttemptDescriptor) -> AttemptContext:
    members = tuple(KeyAnnouncement.from_bytes(blob, LEAD) for blob in descriptor.members)
    return AttemptContext(descriptor, members, digest_attempt(descriptor))


_build_context_once = lru_cache(maxsize=8)(_build_context)
