"""Sign a register of processing activities with the site's identity: an auditor can check that it was not edited."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedhealth.consortium.signed_document import parse_document, sign_document

PURPOSE = "register of processing activities"


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
    return sign_document(body, PURPOSE, identity)


def verify_register(content: bytes, identity: bytes) -> list[dict[str, str]]:
    """Return the entries of a register that the owner of a public key (32 bytes) has signed.

    Raises:
        TrustError: it is no register, was edited, or is another site's.

    """
    return [dict(each) for each in parse_document(content, PURPOSE, identity, "register")["entries"]]
