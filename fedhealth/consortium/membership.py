"""Who belongs to a consortium: signed by the lead's consortium key, verified and approved at each site.

The roster is public. A site trusts it because its own staff compared its fingerprint, not because it arrived.
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

from fedhealth.consortium.roster import Roster
from fedhealth.consortium.signatures import canonical, fingerprint, is_signed, parse_json, sign
from fedhealth.errors import SecureAggregationError, TrustError
from fedhealth.types import SITE_ID

PURPOSE = "membership"
_ADVICE = "Ask the lead for a new kit."
ADDRESS = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?:[0-9]{1,5}", re.ASCII)
PROJECT = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}", re.ASCII)
_MOST_MEMBERS = 1000


@dataclass(frozen=True)
class Member:
    """One site.

    Attributes:
        site: its name.
        identity: Ed25519 public key, 32 bytes: signs for the site in secure aggregation.
        node: EC secp384r1 public key, PEM: answers the lead's server.

    """

    site: str
    identity: bytes
    node: str

    @property
    def fingerprint(self) -> str:
        """What the site's and the lead's people compare."""
        return fingerprint(b"site", self.site.encode(), self.identity, self.node.encode())

    def fields(self) -> dict[str, str]:
        """Return it as JSON fields."""
        return {"site": self.site, "identity": self.identity.hex(), "node": self.node}

    @staticmethod
    def parse(fields: Any) -> Member:
        """Read it back.

        Raises:
            TrustError: anything else than a name and two keys.

        """
        site, identity, node = (text(fields, name, "member") for name in ("site", "identity", "node"))
        exactly(fields, {"site", "identity", "node"}, "member")
        if not SITE_ID.fullmatch(site):
            raise TrustError(f"{site[:80]!r} is no site name.", "Use lower case letters, digits, . _ and -.")
        return Member(site, hexadecimal(identity, 32, "identity key"), _node_key(node))


@dataclass(frozen=True)
class Membership:
    """A consortium as of one moment.

    Attributes:
        project: its name.
        lead: host:port of the lead's server.
        consortium: Ed25519 public key of the consortium, 32 bytes: signs memberships and jobs.
        ca: SHA-256 of the authority's certificate (DER), hexadecimal.
        serial: counts up with every change.
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
        """The members' identities, as secure aggregation wants them."""
        return Roster.of({member.site: member.identity for member in self.members})

    @property
    def fingerprint(self) -> str:
        """What a site approves: the consortium's key and every member's name and identity."""
        return fingerprint(b"consortium", self.project.encode(), self.consortium, self.roster.digest)

    def member(self, site: str) -> Member | None:
        """Return the member of that name."""
        return next((member for member in self.members if member.site == site), None)

    def body(self) -> bytes:
        """Return what is signed."""
        return canonical(
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
        """Read it back.

        Raises:
            TrustError: a field is missing, surplus or malformed.

        """
        exactly(fields, {"project", "lead", "consortium", "ca", "serial", "issued", "members"}, "membership")
        listed = fields["members"]
        if not isinstance(listed, list) or not 0 < len(listed) <= _MOST_MEMBERS:
            raise TrustError("The membership lists no members.", _ADVICE)
        found = Membership(
            project=matching(fields, "project", PROJECT),
            lead=matching(fields, "lead", ADDRESS),
            consortium=hexadecimal(text(fields, "consortium", "membership"), 32, "consortium key"),
            ca=hexadecimal(text(fields, "ca", "membership"), 32, "digest of the certificate").hex(),
            serial=whole(fields, "serial"),
            issued=whole(fields, "issued"),
            members=tuple(map(Member.parse, listed)),
        )
        _refuse_doubles(found)
        return found


@dataclass(frozen=True)
class SignedMembership:
    """A membership with its signature, and with the former key's where the consortium's key was changed."""

    membership: Membership
    signature: bytes
    endorsement: bytes = b""

    def dumps(self) -> bytes:
        """Return it as a file's content."""
        fields: dict[str, Any] = parse_json(self.membership.body(), "membership")
        return canonical(
            {"membership": fields, "signature": self.signature.hex(), "endorsement": self.endorsement.hex()}
        )

    @staticmethod
    def loads(content: bytes) -> SignedMembership:
        """Read it back and check its signature; whose key it is remains to be approved.

        Raises:
            TrustError: malformed, or not signed by the consortium it names.

        """
        fields = parse_json(content, "membership.json")
        exactly(fields, {"membership", "signature", "endorsement"}, "membership.json")
        membership = Membership.parse(fields["membership"])
        signature = hexadecimal(text(fields, "signature", "membership.json"), 64, "signature")
        endorsement = text(fields, "endorsement", "membership.json")
        if not is_signed(membership.consortium, signature, PURPOSE, membership.body()):
            raise TrustError("The membership is not signed by the consortium that it names.", _ADVICE)
        return SignedMembership(
            membership, signature, hexadecimal(endorsement, 64, "endorsement") if endorsement else b""
        )

    def is_endorsed_by(self, former: bytes) -> bool:
        """Tell whether the holder of the consortium's former key signed this membership too."""
        return is_signed(former, self.endorsement, PURPOSE, self.membership.body())


def signed(membership: Membership, key: Ed25519PrivateKey, former: Ed25519PrivateKey | None = None) -> SignedMembership:
    """Sign a membership; with the former key too when the consortium's key was changed."""
    body = membership.body()
    return SignedMembership(membership, sign(key, PURPOSE, body), sign(former, PURPOSE, body) if former else b"")


def exactly(fields: Any, names: set[str], what: str) -> None:
    """Check that an object of a file has these keys and no other.

    Raises:
        TrustError: it has not.

    """
    if not isinstance(fields, dict) or set(fields) != names:
        raise TrustError(f"The {what} has other fields than {', '.join(sorted(names))}.", _ADVICE)


def text(fields: Any, name: str, what: str) -> str:
    """Return a text of an object.

    Raises:
        TrustError: there is none of that name.

    """
    value = fields.get(name) if isinstance(fields, dict) else None
    if not isinstance(value, str):
        raise TrustError(f"The {what} lacks {name!r}.", _ADVICE)
    return value


def matching(fields: dict[str, Any], name: str, pattern: re.Pattern[str]) -> str:
    """Return a text of an object that has the given form.

    Raises:
        TrustError: it has not.

    """
    value = text(fields, name, "membership")
    if not pattern.fullmatch(value):
        raise TrustError(f"{value[:80]!r} is no {name}.", _ADVICE)
    return value


def whole(fields: dict[str, Any], name: str) -> int:
    """Return a number of an object that is whole and not negative.

    Raises:
        TrustError: it is not.

    """
    value = fields.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**53:
        raise TrustError(f"{name!r} is no whole number.", _ADVICE)
    return value


def hexadecimal(value: str, size: int, what: str) -> bytes:
    """Return bytes from lower-case hexadecimal digits.

    Raises:
        TrustError: anything else.

    """
    if not re.fullmatch(f"[0-9a-f]{{{2 * size}}}", value, re.ASCII):
        raise TrustError(f"A {what} has another form than {size} bytes in hexadecimal.", _ADVICE)
    return bytes.fromhex(value)


def _node_key(pem: str) -> str:
    """Return the key in its one spelling."""
    try:
        key = serialization.load_pem_public_key(pem.encode()) if len(pem) < 2000 else None
    except (ValueError, UnsupportedAlgorithm) as fault:
        raise TrustError("A node key is not readable.", _ADVICE) from fault
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp384r1":
        raise TrustError("A node key is not of curve secp384r1.", _ADVICE)
    spelt = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()
    if spelt != pem:
        raise TrustError("A node key is spelt in an unusual way.", _ADVICE)
    return pem


def _refuse_doubles(membership: Membership) -> None:
    names = [member.site for member in membership.members]
    if names != sorted(set(names)):
        raise TrustError("The members are not sorted, or one is named twice.", _ADVICE)
    if len({member.node for member in membership.members}) < len(names):
        raise TrustError("Two members share a node key.", _ADVICE)
    try:
        _ = membership.roster
    except SecureAggregationError as fault:
        raise TrustError(f"The members do not form a roster: {fault.problem}.", _ADVICE) from fault
