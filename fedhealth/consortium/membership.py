"""The members of a consortium: signed with the lead's consortium key, verified and approved at each site.

The roster is public. A site trusts it because its own staff compared the fingerprint, not because it was received.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedhealth.consortium.json_fields import check_fields, get_matching_text, get_text, get_whole_number, parse_hex
from fedhealth.consortium.roster import Roster
from fedhealth.consortium.signatures import (
    compute_fingerprint,
    is_valid_signature,
    parse_json,
    sign_body,
)
from fedhealth.errors import SecureAggregationError, TrustError
from fedhealth.types import SITE_ID
from fedhealth.utils.digest import encode_canonical

PURPOSE = "membership"
_ADVICE = "Ask the lead for a new kit."
ADDRESS = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?:[0-9]{1,5}", re.ASCII)
PROJECT = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}", re.ASCII)
_MAX_MEMBERS = 1000


@dataclass(frozen=True)
class Member:
    """One site.

    Attributes:
        site: its name.
        identity: Ed25519 public key, 32 bytes, for the site's signatures in secure aggregation.
        node: EC secp384r1 public key, PEM, for authentication to the lead's server.

    """

    site: str
    identity: bytes
    node: str

    @property
    def fingerprint(self) -> str:
        """The fingerprint that the staff of site and lead compare."""
        return compute_fingerprint(b"site", self.site.encode(), self.identity, self.node.encode())

    def fields(self) -> dict[str, str]:
        """Return it as JSON fields."""
        return {"site": self.site, "identity": self.identity.hex(), "node": self.node}

    @staticmethod
    def parse(fields: Any) -> Member:
        """Parse JSON fields.

        Raises:
            TrustError: anything else than a name and two keys.

        """
        site, identity, node = (get_text(fields, name, "member") for name in ("site", "identity", "node"))
        check_fields(fields, {"site", "identity", "node"}, "member")
        if not SITE_ID.fullmatch(site):
            raise TrustError(f"{site[:80]!r} is not a valid site name.", "Use lower case letters, digits, . _ and -.")
        return Member(site, parse_hex(identity, 32, "identity key"), _parse_node_key(node))


@dataclass(frozen=True)
class Membership:
    """A consortium at one point in time.

    Attributes:
        project: its name.
        lead: host:port of the lead's server.
        consortium: Ed25519 public key of the consortium, 32 bytes, for signatures of memberships and jobs.
        ca: SHA-256 of the authority's certificate (DER), hexadecimal.
        serial: increases with every change.
        issued: seconds since 1970.
        members: sorted by name.

    """

    project: str
    lead: str
    consortium: bytes
    ca: str
    serial: int
    issued: int
    members: tuple[Member, ...]

    @cached_property
    def roster(self) -> Roster:
        """The members' identity keys, for secure aggregation."""
        return Roster.from_keys({member.site: member.identity for member in self.members})

    @property
    def fingerprint(self) -> str:
        """The fingerprint that a site approves: of the consortium's key and every member's name and identity key."""
        return compute_fingerprint(b"consortium", self.project.encode(), self.consortium, self.roster.digest)

    def member(self, site: str) -> Member | None:
        """Return the member of this name, if any."""
        return next((member for member in self.members if member.site == site), None)

    def body(self) -> bytes:
        """Return the signed bytes."""
        return encode_canonical(
            {
                "project": self.project,
                "lead": self.lead,
                "consortium": self.consortium.hex(),
                "ca": self.ca,
                "serial": self.serial,
                "issued": self.issued,
                "members": [member.fields() for member in self.members],
            }
        )

    @staticmethod
    def parse(fields: Any) -> Membership:
        """Parse JSON fields.

        Raises:
            TrustError: a field is missing, unknown or malformed.

        """
        check_fields(fields, {"project", "lead", "consortium", "ca", "serial", "issued", "members"}, "membership")
        listed = fields["members"]
        if not isinstance(listed, list) or not 0 < len(listed) <= _MAX_MEMBERS:
            raise TrustError("The membership lists no members.", _ADVICE)
        found = Membership(
            project=get_matching_text(fields, "project", PROJECT),
            lead=get_matching_text(fields, "lead", ADDRESS),
            consortium=parse_hex(get_text(fields, "consortium", "membership"), 32, "consortium key"),
            ca=parse_hex(get_text(fields, "ca", "membership"), 32, "digest of the certificate").hex(),
            serial=get_whole_number(fields, "serial"),
            issued=get_whole_number(fields, "issued"),
            members=tuple(map(Member.parse, listed)),
        )
        _reject_duplicates(found)
        return found


@dataclass(frozen=True)
class SignedMembership:
    """A membership with its signature, and a second one with the former key if the consortium's key was changed."""

    membership: Membership
    signature: bytes
    endorsement: bytes = b""

    def dumps(self) -> bytes:
        """Return the content of membership.json."""
        fields: dict[str, Any] = parse_json(self.membership.body(), "membership")
        return encode_canonical(
            {"membership": fields, "signature": self.signature.hex(), "endorsement": self.endorsement.hex()}
        )

    @staticmethod
    def loads(content: bytes) -> SignedMembership:
        """Parse membership.json and verify its signature; the key itself remains to be approved.

        Raises:
            TrustError: it is malformed, or not signed by the consortium that it names.

        """
        fields = parse_json(content, "membership.json")
        check_fields(fields, {"membership", "signature", "endorsement"}, "membership.json")
        membership = Membership.parse(fields["membership"])
        signature = parse_hex(get_text(fields, "signature", "membership.json"), 64, "signature")
        endorsement = get_text(fields, "endorsement", "membership.json")
        if not is_valid_signature(membership.consortium, signature, PURPOSE, membership.body()):
            raise TrustError("The membership is not signed by the consortium that it names.", _ADVICE)
        return SignedMembership(
            membership, signature, parse_hex(endorsement, 64, "endorsement") if endorsement else b""
        )

    def is_endorsed_by(self, former: bytes) -> bool:
        """Return whether the consortium's former key signed this membership too."""
        return is_valid_signature(former, self.endorsement, PURPOSE, self.membership.body())


def sign_membership(
    membership: Membership, key: Ed25519PrivateKey, former: Ed25519PrivateKey | None = None
) -> SignedMembership:
    """Sign a membership; also with the former key if the consortium's key was changed."""
    body = membership.body()
    return SignedMembership(
        membership, sign_body(key, PURPOSE, body), sign_body(former, PURPOSE, body) if former else b""
    )


def _parse_node_key(pem: str) -> str:
    """Return the key if it is in canonical PEM form."""
    try:
        key = serialization.load_pem_public_key(pem.encode()) if len(pem) < 2000 else None
    except (ValueError, UnsupportedAlgorithm) as fault:
        raise TrustError("A node key is not readable.", _ADVICE) from fault
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp384r1":
        raise TrustError("A node key is not of curve secp384r1.", _ADVICE)
    canonical = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()
    if canonical != pem:
        raise TrustError("A node key is not in canonical PEM form.", _ADVICE)
    return pem


def _reject_duplicates(membership: Membership) -> None:
    names = [member.site for member in membership.members]
    if names != sorted(set(names)):
        raise TrustError("The members are not sorted, or one is named twice.", _ADVICE)
    if len({member.node for member in membership.members}) < len(names):
        raise TrustError("Two members share a node key.", _ADVICE)
    try:
        _ = membership.roster
    except SecureAggregationError as fault:
        raise TrustError(f"The members do not form a roster: {fault.problem}.", _ADVICE) from fault
