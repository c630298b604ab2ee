"""Documents that a site signs for auditors: one JSON object, with the signature of the site's identity in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedhealth.consortium.signatures import is_valid_hex_signature, sign_body
from fedhealth.errors import TrustError
from fedhealth.utils.digest import encode_canonical
from fedhealth.utils.json_model import parse_json

_ADVICE = "Ask the site for a new export."
_LARGEST = 2**30  # bytes


def sign_document(fields: Mapping[str, Any], purpose: str, identity: Ed25519PrivateKey) -> bytes:
    """Return the fields with their signature, as canonical JSON."""
    signature = sign_body(identity, purpose, encode_canonical(fields)).hex()
    return encode_canonical({**fields, "signature": signature})


def parse_document(content: bytes, purpose: str, identity: bytes, name: str) -> dict[str, Any]:
    """Return the fields of a document that the owner of a public key (32 bytes) has signed.

    Args:
        content: as `sign_document` returned it.
        purpose: as it was signed for.
        identity: the public key.
        name: of the document, in messages.

    Raises:
        TrustError: it is no such document, was edited, or is another site's.

    """
    fields = parse_json(content, f"The {name}", _ADVICE, limit=_LARGEST)
    proof = str(fields.pop("signature", "")) if isinstance(fields, dict) else ""
    if not is_valid_hex_signature(identity, proof, purpose, encode_canonical(fields)):
        raise TrustError(f"The {name} is not signed with this site's identity key, or was edited.", _ADVICE)
    return dict(fields)
