"""What an attempt is about: the roster, the verified announcements, and ctx, the digest that every label carries."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from fedhealth.consortium.roster import Roster
from fedhealth.protocol.digest import transcript
from fedhealth.secagg.primitives.codec import PROTOCOL, Writer
from fedhealth.secagg.primitives.keys import is_low_order, signed_by
from fedhealth.secagg.protocol.errors import RefusedError, refuse_unless
from fedhealth.secagg.protocol.layout import NAME, Layout, Segment
from fedhealth.secagg.protocol.messages import LEAD, Announcement, Directive


def verified(data: bytes, roster: Roster, run: str, sender: str) -> Announcement:
    """Decode an announcement and check who made it; `RefusedError` names the claimed site or the sender."""
    found = Announcement.from_bytes(data, sender)
    site = found.site
    who = (site,) if sender == site else (sender, site)
    refuse_unless(site in roster.keys, f"{site} is not an approved member", rule="R8", blame=who)
    authentic = signed_by(roster.keys[site], found.signature, b"announce", found.body())
    refuse_unless(authentic, f"the announcement of {site} is not signed by its approved identity", blame=who)
    refuse_unless(found.run == run, f"the announcement of {site} belongs to another run", blame=who)
    refuse_unless(
        found.roster_digest == roster.digest, f"{site} approved another list of members", rule="R8", blame=who
    )
    refuse_unless(not is_low_order(found.key), f"the key of {site} is of low order", blame=who)
    towers = [tower for tower, _ in found.towers]
    sound = towers == sorted(set(towers)) and all(NAME.fullmatch(tower) for tower in towers)
    sound = sound and all(weight < 2**55 for _, weight in found.towers)
    refuse_unless(sound, f"{site} announced malformed towers or weights", blame=who)
    return found


def verified_members(blobs: Iterable[bytes], roster: Roster, run: str, sender: str = LEAD) -> list[Announcement]:
    """Verify a directive's announcements: sorted, each site once, each key once."""
    members = [verified(blob, roster, run, sender) for blob in blobs]
    sites = [member.site for member in members]
    refuse_unless(sites == sorted(set(sites)), "members must be sorted and unique", rule="R8", blame=(sender,))
    seen: dict[bytes, str] = {}
    for member in members:
        other = seen.setdefault(member.key, member.site)
        if other != member.site:
            raise RefusedError(f"{other} and {member.site} announced the same key", blame=(other, member.site))
    return members


def ctx_digest(directive: Directive) -> bytes:
    """Return SHA-256 over everything both sides must agree on, each part with its length in front."""
    layout = Writer(0)
    for segment in directive.layout:
        segment.write(layout)
    numbers = (directive.exchange, directive.attempt, directive.threshold, int(directive.signed))
    parts = (
        PROTOCOL,
        directive.run.encode(),
        directive.config_digest,
        directive.roster_digest,
        *(number.to_bytes(8, "little") for number in numbers),
        transcript(*directive.members),
        transcript(*(site.encode() for site in directive.base)),
        transcript(*(site.encode() for site in directive.cohort)),
        directive.model_digest,
        directive.training_digest,
        layout.bytes(),
    )
    return hashlib.sha256(transcript(*parts)).digest()


@dataclass(frozen=True)
class Context:
    """One attempt, as both sides see it. Built from a directive whose members were verified."""

    directive: Directive
    members: tuple[Announcement, ...]
    ctx: bytes

    @classmethod
    def of(cls, directive: Directive) -> "Context":
        """Derive the context; raises `RefusedError` for announcements that do not parse."""
        members = tuple(Announcement.from_bytes(blob, LEAD) for blob in directive.members)
        return cls(directive, members, ctx_digest(directive))

    @property
    def layout(self) -> Layout:
        """Return the segments."""
        return self.directive.layout

    @property
    def cohort(self) -> tuple[str, ...]:
        """Return the sites of this attempt, sorted."""
        return self.directive.cohort

    @cached_property
    def weights(self) -> dict[tuple[str, str], int]:
        """Return {(site, tower): announced weight} of all members."""
        return {(m.site, tower): weight for m in self.members for tower, weight in m.towers}

    def owners(self, segment: Segment, among: Iterable[str]) -> tuple[str, ...]:
        """Return the sites among these that contribute to the segment."""
        return tuple(site for site in among if (site, segment.tower) in self.weights)

    def owned(self, site: str) -> tuple[Segment, ...]:
        """Return the segments a site contributes to, in layout order."""
        return tuple(segment for segment in self.layout if (site, segment.tower) in self.weights)

    def point(self, site: str) -> int:
        """Return the x at which a site of the cohort receives its shares."""
        return self.cohort.index(site) + 1
