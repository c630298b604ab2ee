"""The members of a consortium: signed with the lead's consortium key, verified and approved at each site.

The roster is public. A site trusts it because its own staff compared the fingerprint, not because it was received.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Annotated, Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import AfterValidator, Field

from fedhealth.consortium.roster import Roster
from fedhealth.consortium.signatures import compute_fingerprint, is_valid_signature, sign_body
from fedhealth.errors import TrustError
from fedhealth.utils.digest import encode_canonical
from fedhealth.utils.json_model import Sha256, SiteName, WholeNumber, decode_hex, match_form, parse_model

PURPOSE = "membership"
_ADVICE = "Ask the lead for a new kit."
ADDRESS = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?:[0-9]{1,5}", re.ASCII)
PROJECT = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}", re.ASCII)
_MAX_MEMBERS = 1000


def _check_node_key(pem: str) -> str:
    """Return the key if it is in canonical PEM form."""
    try:
        key = serialization.load_pem_public_key(pem.encode()) if len(pem) < 2000 else None
    except (ValueError, UnsupportedAlgorithm) as fault:
        raise ValueError("expected a readable key") from fault
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp384r1":
        raise ValueError("expected a key of curve secp384r1")
    canonical = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()
    if canonical != pem:
        raise ValueError("expected a key in canonical PEM form")
    return pem


def _check_members(members: tuple[Member, ...]) -> tuple[Member, ...]:
    names = [member.site for member in members]
    if names != sorted(set(names)):
        raise ValueError("expected members in order, each once")
    for name in ("identity", "node"):
        if len({getattr(member, name) for member in members}) < len(names):
            raise ValueError(f"two members share the {name} key")
    return members


Key = Annotated[bytes, decode_hex(32)]
Signature = Annotated[bytes, decode_hex(64)]
Address = Annotated[str, match_form(ADDRESS, "host:port in lower case")]
ProjectName = Annotated[str, match_form(PROJECT, "lower case letters, digits, . _ and -")]


@dataclass(frozen=True)
class Member:
    """One site.

    Attributes:
        site: its name.
        identity: Ed25519 public key, 32 bytes, for the site's signatures in secure aggregation.
        node: EC secp384r1 public key, PEM, for authentication to the lead's server.

    """

    site: SiteName
    identity: Key
    node: Annotated[str, AfterValidator(_check_node_key)]

    @property
    def fingerprint(self) -> str:
        """The fingerprint that the staff of site and lead compare."""
        return compute_fingerprint(b"site", self.site.encode(), self.identity, self.node.encode())

    def fields(self) -> dict[str, str]:
        """Return it as JSON fields."""
        return {"site": self.site, "identity": self.identity.hex(), "node": self.node}


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

    project: ProjectName
    lead: Address
    consortium: Key
    ca: Sha256
    serial: WholeNumber
    issued: WholeNumber
    members: Annotated[tuple[Member, ...], Field(min_length=1, max_length=_MAX_MEMBERS), AfterValidator(_check_members)]

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
        return encode_canonical(self.fields())

    def fields(self) -> dict[str, Any]:
        """Return it as JSON fields."""
        listed = [member.fields() for member in self.members]
        return {**asdict(self), "consortium": self.consortium.hex(), "members": listed}


@dataclass(frozen=True)
class SignedMembership:
    """A membership with its signature, and a second one with the former key if the consortium's key was changed."""

    membership: Membership
    signature: Signature
    endorsement: Annotated[bytes, decode_hex(64, 0)]

    def dumps(self) -> bytes:
        """Return the content of membership.json."""
        return encode_canonical(
            {
                "membership": self.membership.fields(),
                "signature": self.signature.hex(),
                "endorsement": self.endorsement.hex(),
            }
        )

    @staticmethod
    def loads(content: bytes) -> SignedMembership:
        """Parse membership.json and verify its signature; the key itself remains to be approved.

        Raises:
            TrustError: it is malformed, or not signed by the consortium that it names.

        """
        found = parse_model(content, SignedMembership, "membership.json", _ADVICE)
        if not is_valid_signature(found.membership.consortium, found.signature, PURPOSE, found.membership.body()):
            raise TrustError("The membership is not signed by the consortium that it names.", _ADVICE)
        return found

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
