"""The one encoding of multi-part data for hashing and signing: every part is preceded by its length.

Two different lists of parts therefore never give the same bytes. Each use has its own label as the first part, so a
digest made for one purpose is never valid for another.
"""

from __future__ import annotations

import hashlib
import json


def encode_parts(*parts: bytes) -> bytes:
    """Join the parts, each after its length (8 bytes, little-endian)."""
    return b"".join([len(part).to_bytes(8, "little") + part for part in parts])


def encode_canonical(value: object) -> bytes:
    """Return JSON with sorted keys, no spaces and ASCII only: equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


class TranscriptDigest:
    """SHA-256 over a label and length-prefixed parts, which may be added one by one and are not copied."""

    def __init__(self, label: bytes) -> None:
        self._hash = hashlib.sha256()
        self.add(label)

    def add(self, *parts: bytes | memoryview) -> None:
        """Add parts; equal to hashing `encode_parts` of all of them."""
        for part in parts:
            size = part.nbytes if isinstance(part, memoryview) else len(part)
            self._hash.update(size.to_bytes(8, "little"))
            self._hash.update(part)

    def digest(self) -> bytes:
        """Return the 32 bytes."""
        return self._hash.digest()

    def hexdigest(self) -> str:
        """Return the digest in hexadecimal."""
        return self._hash.hexdigest()


def digest_parts(label: bytes, *parts: bytes) -> bytes:
    """Return the SHA-256 of a label and length-prefixed parts."""
    found = TranscriptDigest(label)
    found.add(*parts)
    return found.digest()
