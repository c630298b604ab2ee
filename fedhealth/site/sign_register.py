"""Sign a register of processing activities with the site's identity: an auditor can check that it was not edited."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedhealth.consortium.signatures import is_valid_signature, parse_json, sign_body
from fedhealth.errors import TrustError
from fedhealth.utils.digest import encode_canonical

PURPOSE = "register of processing activities"
_LARGEST = 2**28  # bytes


def sign_register(
    entries: Sequence[Mapping[str, str]], site: str, log_digest: str, identity: Ed25519PrivateKey
) -> bytes:
    """Return the signed register as JSON.

    Args:
        entries: one for each run.
        site: the hospital's name.
        log_digest: of the audit log that the entries were made from.
        identity: the site's key.

    """
    body = {"site": site, "log": log_digest, "entries": [dict(each) for each in entries]}
    return encode_canonical({**body, "signature": sign_body(identity, PURPOSE, encode_canonical(body)).hex()})


def verify_register(content: bytes, identity: bytes) -> list[dict[str, str]]:
    """Return the entries of a register that the owner of a public key (32 bytes) has signed.

    Raises:
        TrustError: it is no register, was edited, or is another site's.

    """
    fields = parse_json(content, "The register", _LARGEST)
    proof = str(fields.pop("signature", "")) if isinstance(fields, dict) else ""
    try:
        is_genuine = is_valid_signature(identity, bytes.fromhex(proof), PURPOSE, encode_canonical(fields))
    except ValueError:
        is_genuine = False
    if not is_genuine:
        raise TrustError(
            "The register is not signed with this site's identity key, or was edited.", "Ask the site for a new export."
        )
    return [dict(each) for each in fields["entries"]]
