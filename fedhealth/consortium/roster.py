"""The approved members and their identity keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from fedhealth.errors import TrustError
from fedhealth.types import SITE_ID
from fedhealth.utils.digest import digest_parts


@dataclass(frozen=True)
class Roster:
    """The members approved by a site's staff: (id, Ed25519 public key), sorted."""

    members: tuple[tuple[str, bytes], ...]

    @classmethod
    def from_keys(cls, members: Mapping[str, bytes]) -> Roster:
        """Build from {id: public key}; ids are lower case."""
        for site in members:
            if not SITE_ID.fullmatch(site):
                raise TrustError(f"{site!r} is not a valid site id.", "Use lower case letters, digits, . _ and -.")
        if len(set(members.values())) != len(members):
            raise TrustError("Two members share an identity key.", "Ask both for their fingerprints.")
        return cls(tuple(sorted(members.items())))

    @cached_property
    def keys(self) -> dict[str, bytes]:
        """Return {id: public key}."""
        return dict(self.members)

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of the approved list."""
        parts = (part for site, key in self.members for part in (site.encode(), key))
        return digest_parts(b"fedhealth roster 2", *parts)
