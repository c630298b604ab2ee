"""Detached signatures in minisign's format, so that a release can be checked without our software.

The format is the one that minisign publishes ("Minisign: signature format", prehashed): `ED`, eight bytes of key id,
and the Ed25519 signature (RFC 8032) of the file's BLAKE2b-512 digest (RFC 7693). A second signature covers the first
one and the trusted comment. `minisign -V` reads the same files.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fedhealth.errors import TrustError

_KEY, _PREHASHED = b"Ed", b"ED"
_KEY_ID, _PUBLIC, _SIGNATURE = 8, 32, 64  # bytes
_UNTRUSTED, _TRUSTED = "untrusted comment: ", "trusted comment: "
_MAX_CHARACTERS = 4096
_ADVICE = (
    "Do not install it. Get the archive, its signature and the public key again, and compare the key by telephone."
)


@dataclass(frozen=True)
class MinisignSignature:
    """The content of a .minisig file.

    Attributes:
        key_id: 8 bytes.
        signature: of the file's digest, 64 bytes.
        comment: the trusted comment.
        comment_signature: of the signature and the comment, 64 bytes.

    """

    key_id: bytes
    signature: bytes
    comment: str
    comment_signature: bytes


def compute_key_id(public: bytes) -> bytes:
    """Return the key id of a public key (32 bytes): the first 8 bytes of its SHA-256."""
    return hashlib.sha256(public).digest()[:_KEY_ID]


def format_public_key(public: bytes) -> str:
    """Return the text of a minisign public key file."""
    key_id = compute_key_id(public)
    body = base64.b64encode(_KEY + key_id + public).decode()
    return f"{_UNTRUSTED}minisign public key {key_id.hex().upper()}\n{body}\n"


def sign_file(key: Ed25519PrivateKey, path: Path, comment: str) -> str:
    """Return the text of the detached signature of a file.

    Args:
        key: the signing key.
        path: of the file.
        comment: one line that is signed too, for instance the file's name.

    """
    signature = key.sign(_hash_file(path))
    comment_signature = key.sign(signature + comment.encode())
    key_id = compute_key_id(key.public_key().public_bytes_raw())
    first, last = (base64.b64encode(part).decode() for part in (_PREHASHED + key_id + signature, comment_signature))
    return f"{_UNTRUSTED}verify with minisign\n{first}\n{_TRUSTED}{comment}\n{last}\n"


def verify_file(path: Path, signature: str, public_key: str) -> str:
    """Check the detached signature of a file; return its trusted comment.

    Args:
        path: of the file.
        signature: text of the .minisig file.
        public_key: text of the public key file, or its last line.

    Raises:
        TrustError: one of the texts is malformed, or the signature is not that of this file by this key.

    """
    key_id, public = _parse_public_key(public_key)
    found = _parse_signature(signature)
    if found.key_id != key_id:
        raise TrustError(f"{path} was signed with another key ({found.key_id.hex().upper()}).", _ADVICE)
    try:
        key = Ed25519PublicKey.from_public_bytes(public)
        key.verify(found.signature, _hash_file(path))
        key.verify(found.comment_signature, found.signature + found.comment.encode())
    except InvalidSignature as fault:
        raise TrustError(
            f"The signature of {path} is not valid: the file or the signature was changed.", _ADVICE
        ) from (fault)
    return found.comment


def _parse_public_key(text: str) -> tuple[bytes, bytes]:
    lines = text[:_MAX_CHARACTERS].strip().splitlines()
    body = _decode_base64(lines[-1] if lines else "", len(_KEY) + _KEY_ID + _PUBLIC, _KEY, "The public key")
    return body[len(_KEY) : -_PUBLIC], body[-_PUBLIC:]


def _parse_signature(text: str) -> MinisignSignature:
    lines = text[:_MAX_CHARACTERS].splitlines()
    if len(lines) != 4 or not lines[0].startswith(_UNTRUSTED) or not lines[2].startswith(_TRUSTED):
        raise TrustError("The signature is not a minisign file.", _ADVICE)
    body = _decode_base64(lines[1], len(_PREHASHED) + _KEY_ID + _SIGNATURE, _PREHASHED, "The signature")
    last = _decode_base64(lines[3], _SIGNATURE, b"", "The signature of the comment")
    return MinisignSignature(
        body[len(_PREHASHED) : -_SIGNATURE], body[-_SIGNATURE:], lines[2].removeprefix(_TRUSTED), last
    )


def _decode_base64(text: str, size: int, start: bytes, what: str) -> bytes:
    try:
        body = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        body = b""
    if len(body) != size or not body.startswith(start):
        raise TrustError(f"{what} is not one of minisign's current format.", _ADVICE)
    return body


def _hash_file(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").digest()
