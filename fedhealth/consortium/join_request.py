"""A join request: a site's name and public keys, signed with both private keys as proof of possession.

It holds no secret. The lead's staff compares its fingerprint with the site before admitting it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fedhealth.consortium.membership import Address, Member, Signature
from fedhealth.consortium.signatures import is_valid_signature
from fedhealth.errors import TrustError
from fedhealth.utils.digest import encode_canonical, encode_parts
from fedhealth.utils.json_model import match_form, parse_model

PURPOSE = "join request"
_LIMIT = 2**14  # bytes
NODE_LABEL = b"fedhealth join request 1"
_NODE_PROOF = re.compile(r"([0-9a-f]{2}){8,110}", re.ASCII)  # an ECDSA signature in DER
_ADVICE = "Ask the site for a new request."


@dataclass(frozen=True)
class JoinRequest:
    """A site's request to join.

    Attributes:
        member: its name and public keys.
        lead: host:port of the server that it wants to join.

    """

    member: Member
    lead: Address

    @property
    def fingerprint(self) -> str:
        """The fingerprint that the staff of site and lead compare."""
        return self.member.fingerprint

    def body(self) -> bytes:
        """Return the signed bytes."""
        return encode_canonical(self.fields())

    def fields(self) -> dict[str, Any]:
        """Return it as JSON fields."""
        return {"member": self.member.fields(), "lead": self.lead}


@dataclass(frozen=True)
class _SignedRequest(JoinRequest):
    """A request with both proofs of possession, as it is sent."""

    by_identity: Signature
    by_node: Annotated[str, match_form(_NODE_PROOF, "a signature in hexadecimal digits")]


def read_request(content: bytes) -> JoinRequest:
    """Read a request and check that its sender has both private keys; people still compare the fingerprint.

    Raises:
        TrustError: it is malformed or not signed with both keys.

    """
    found = parse_model(content, _SignedRequest, "The request", _ADVICE, limit=_LIMIT)
    request = JoinRequest(found.member, found.lead)
    if not is_valid_signature(request.member.identity, found.by_identity, PURPOSE, request.body()):
        raise TrustError("The request is not signed with its own identity key.", _ADVICE)
    if not _is_signed_by_node(request, bytes.fromhex(found.by_node)):
        raise TrustError("The request is not signed with its own node key.", _ADVICE)
    return request


def _is_signed_by_node(request: JoinRequest, signature: bytes) -> bool:
    key = serialization.load_pem_public_key(request.member.node.encode())
    assert isinstance(key, ec.EllipticCurvePublicKey)  # noqa: S101 - Member accepts nothing else
    try:
        key.verify(signature, encode_parts(NODE_LABEL, request.body()), ec.ECDSA(hashes.SHA384()))
    except InvalidSignature:
        return False
    return True
