"""Ed25519 signatures (RFC 8032) with a label for each purpose, and fingerprints that people compare."""

from __future__ import annotations

import json
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fedhealth.errors import TrustError
from fedhealth.utils.digest import digest_parts, encode_parts

_PROTOCOL = b"fedhealth trust 1"
_GROUPS, _GROUP = 10, 4  # 160 bits in hexadecimal: short enough for a telephone call, too long for a brute-force search


def sign_body(key: Ed25519PrivateKey, purpose: str, body: bytes) -> bytes:
    """Sign a body; the signature is valid for this purpose only."""
    return key.sign(encode_parts(_PROTOCOL, purpose.encode(), body))


def is_valid_signature(public: bytes, signature: bytes, purpose: str, body: bytes) -> bool:
    """Return whether `sign_body` made this signature with the private key of `public`."""
    try:
        key = Ed25519PublicKey.from_public_bytes(public)
        key.verify(signature, encode_parts(_PROTOCOL, purpose.encode(), body))
    except (InvalidSignature, ValueError):
        return False
    return True


def compute_fingerprint(*parts: bytes) -> str:
    """Return the fingerprint that two people compare by telephone: 160 bits of SHA-256, in groups."""
    digest = digest_parts(_PROTOCOL, b"fingerprint", *parts).hex()
    return "-".join(digest[start : start + _GROUP] for start in range(0, _GROUPS * _GROUP, _GROUP))


def check_fingerprint(computed: str, expected: str | None, what: str) -> None:
    """Compare the computed fingerprint with the expected one; skip if None, because people compared it themselves.

    Raises:
        TrustError: they differ.

    """
    if expected is not None and expected.strip().lower() != computed:
        raise TrustError(
            f"The {what}'s fingerprint is {computed}, not {expected[:80]!r}.", "Call the sender and ask what happened."
        )


def parse_json(content: bytes | str, what: str, limit: int = 2**20) -> Any:
    """Parse JSON from outside: limited in size, without duplicate keys and NaN.

    Raises:
        TrustError: anything else.

    """
    if len(content) > limit:
        raise TrustError(f"{what} is larger than {limit} bytes.", "Ask the sender for the right file.")
    try:
        return json.loads(content, object_pairs_hook=_reject_duplicate_keys, parse_constant=_reject_constant)
    except (ValueError, RecursionError) as fault:
        raise TrustError(f"{what} is not JSON.", "Ask the sender for the right file.") from fault


def _reject_duplicate_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a duplicate key")
    return found


def _reject_constant(name: str) -> Any:
    raise ValueError(name)
