"""The approved members and their identity keys, as one value with a digest."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from fedhealth.errors import TrustError
from fedhealth.protocol.digest import transcript
from fedhealth.types import SITE_ID


@dataclass(frozen=True)
class Roster:
    """The members that a site's staff approved: (id, Ed25519 public key), sorted."""

    members: tuple[tuple[str, bytes], ...]

    @classmethod
    def of(cls, members: Mapping[str, bytes]) -> Roster:
        """Build from {id: public key}; ids are lower case."""
        for site in members:
            if not SITE_ID.fullmatch(site):
                raise TrustError(f"{site!r} is no site id.", "Use lower case letters, digits, . _ and -.")
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
        return hashlib.sha256(transcript(b"fedhealth roster 2", *parts)).digest()
