"""A join request: a site's name and public keys, signed with both private ones, so that nobody asks with another's key.

It holds no secret. The lead's people compare its fingerprint with the site's before they admit it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fedhealth.consortium.membership import ADDRESS, Member, exactly, hexadecimal, matching, text
from fedhealth.consortium.signatures import canonical, is_signed, parse_json
from fedhealth.errors import TrustError
from fedhealth.protocol.digest import transcript

PURPOSE = "join request"
_LIMIT = 2**14  # bytes
_NODE_LABEL = b"fedhealth join request 1"
_NODE_PROOF = re.compile(r"([0-9a-f]{2}){8,110}", re.ASCII)  # an ECDSA signature in DER
_ADVICE = "Ask the site for a new request."


@dataclass(frozen=True)
class JoinRequest:
    """What a site asks with.

    Attributes:
        member: its name and public keys.
        lead: host:port of the server that it means to join.

    """

    member: Member
    lead: str

    @property
    def fingerprint(self) -> str:
        """What the site's and the lead's people compare."""
        return self.member.fingerprint

    def body(self) -> bytes:
        """Return what is signed."""
        return canonical({"member": self.member.fields(), "lead": self.lead})


def read_request(content: bytes) -> JoinRequest:
    """Read a request and check that its sender holds both private keys; who that is remains to be compared.

    Raises:
        TrustError: malformed, or without a proof.

    """
    fields = parse_json(content, "The request", _LIMIT)
    exactly(fields, {"member", "lead", "by_identity", "by_node"}, "request")
    request = JoinRequest(Member.parse(fields["member"]), matching(fields, "lead", ADDRESS))
    by_identity = hexadecimal(text(fields, "by_identity", "request"), 64, "signature")
    by_node = text(fields, "by_node", "request")
    if not _NODE_PROOF.fullmatch(by_node):
        raise TrustError("The request's second signature is malformed.", _ADVICE)
    if not is_signed(request.member.identity, by_identity, PURPOSE, request.body()):
        raise TrustError("The request is not signed with its own identity key.", _ADVICE)
    if not _is_signed_by_node(request, bytes.fromhex(by_node)):
        raise TrustError("The request is not signed with its own node key.", _ADVICE)
    return request


def _is_signed_by_node(request: JoinRequest, signature: bytes) -> bool:
    key = serialization.load_pem_public_key(request.member.node.encode())
    assert isinstance(key, ec.EllipticCurvePublicKey)  # noqa: S101 - Member.parse let nothing else pass
    try:
        key.verify(signature, transcript(_NODE_LABEL, request.body()), ec.ECDSA(hashes.SHA384()))
    except InvalidSignature:
        return False
    return True
