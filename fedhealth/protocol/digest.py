"""One length-prefixed encoding of byte strings, for everything that is hashed or signed."""

from __future__ import annotations


def transcript(*parts: bytes) -> bytes:
    """Join parts so that no two different lists give the same bytes."""
    return b"".join(len(part).to_bytes(8, "little") + part for part in parts)
