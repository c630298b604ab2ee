"""What is signed, and how: one byte string for each value, a label for each purpose, Ed25519 (RFC 8032)."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fedhealth.errors import TrustError
from fedhealth.protocol.digest import transcript

_PROTOCOL = b"fedhealth trust 1"
_GROUPS, _GROUP = 10, 4  # 160 bits in hexadecimal: short enough for a telephone, too many to search


def canonical(value: object) -> bytes:
    """Return JSON with sorted keys, no spaces and ASCII only: the same value, the same bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def sign(key: Ed25519PrivateKey, purpose: str, body: bytes) -> bytes:
    """Sign a body for one purpose only."""
    return key.sign(transcript(_PROTOCOL, purpose.encode(), body))


def is_signed(public: bytes, signature: bytes, purpose: str, body: bytes) -> bool:
    """Tell whether `sign` made this signature with the key behind `public`."""
    try:
        key = Ed25519PublicKey.from_public_bytes(public)
        key.verify(signature, transcript(_PROTOCOL, purpose.encode(), body))
    except (InvalidSignature, ValueError):
        return False
    return True


def fingerprint(*parts: bytes) -> str:
    """Return what two people compare over the telephone: 160 bits of SHA-256, in groups."""
    digest = hashlib.sha256(transcript(_PROTOCOL, b"fingerprint", *parts)).hexdigest()
    return "-".join(digest[start : start + _GROUP] for start in range(0, _GROUPS * _GROUP, _GROUP))


def check_fingerprint(shown: str, told: str | None, what: str) -> None:
    """Compare what this machine computed with what a person was told; None where people compared it themselves.

    Raises:
        TrustError: they differ.

    """
    if told is not None and told.strip().lower() != shown:
        raise TrustError(
            f"The {what}'s fingerprint is {shown}, not {told[:80]!r}.", "Ask the sender what happened, by telephone."
        )


def parse_json(content: bytes | str, what: str, limit: int = 2**20) -> Any:
    """Read JSON that came from outside: bounded, no key twice, no NaN.

    Raises:
        TrustError: anything else.

    """
    if len(content) > limit:
        raise TrustError(f"{what} is larger than {limit} bytes.", "Ask the sender for the right file.")
    try:
        return json.loads(content, object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as fault:
        raise TrustError(f"{what} is not JSON.", "Ask the sender for the right file.") from fault


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key twice")
    return found


def _no_constant(word: str) -> Any:
    raise ValueError(word)
