"""Ed25519 signatures (RFC 8032) with a label for each purpose, and fingerprints that people compare."""

from __future__ import annotations

import re

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fedhealth.errors import TrustError
from fedhealth.utils.digest import digest_parts, encode_parts

_PROTOCOL = b"fedhealth trust 1"
_DIGITS = re.compile(r"[0-9a-f]{128}", re.ASCII)
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


def is_valid_hex_signature(public: bytes, signature: str, purpose: str, body: bytes) -> bool:
    """Return the same of a signature from outside: 128 lower-case hexadecimal digits, and nothing else."""
    is_formed = _DIGITS.fullmatch(signature) is not None
    return is_formed and is_valid_signature(public, bytes.fromhex(signature), purpose, body)


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
