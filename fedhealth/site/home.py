"""A hospital's folder: its policy, keys, kit, log and private state. Nothing in it is readable by others.

site.yaml is the only file that is edited by hand.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedhealth.consortium.identity import make_identity
from fedhealth.errors import TrustError
from fedhealth.utils.private_files import load_signing_key, make_folder, read_secret, write_secret

VARIABLE = "FEDHEALTH_HOME"


@dataclass(frozen=True)
class SiteHome:
    """Where everything of one site lies."""

    path: Path

    @classmethod
    def find(cls, path: Path | None = None) -> SiteHome:
        """Return the home at `path`, else where FEDHEALTH_HOME says, else ~/.fedhealth."""
        chosen = path or Path(os.environ.get(VARIABLE) or "~/.fedhealth")
        return cls(chosen.expanduser().absolute())

    @property
    def policy(self) -> Path:
        """The hospital's own rules, edited by its IT."""
        return self.path / "site.yaml"

    @property
    def keys(self) -> Path:
        """Folder of private keys: identity.key (Ed25519) and node.key (EC, secp384r1)."""
        return self.path / "keys"

    @property
    def node_key(self) -> Path:
        """The key with which this node answers the lead's server, PEM."""
        return self.keys / "node.key"

    @property
    def request(self) -> Path:
        """The join request, as given to the lead."""
        return self.path / "join-request.json"

    @property
    def kit(self) -> Path:
        """Folder of what came from the lead: ca.crt and membership.json, both verified and approved."""
        return self.path / "kit"

    @property
    def membership(self) -> Path:
        """The signed list of members that was approved here."""
        return self.kit / "membership.json"

    @property
    def ca(self) -> Path:
        """The certificate that the lead's server must be signed with."""
        return self.kit / "ca.crt"

    @property
    def audit(self) -> Path:
        """The log of everything that left and of everything that was refused."""
        return self.path / "audit" / "audit.jsonl"

    @property
    def state(self) -> Path:
        """Private state that outlives runs: the privacy ledgers, the roster, secure aggregation's journals."""
        return self.path / "state"

    def arrays(self, run: str) -> Path:
        """Folder of what one run keeps here: arrays that are trained and not shared, its count of bytes."""
        return self.state / "runs" / run

    @property
    def work(self) -> Path:
        """Scratch space of tasks."""
        return self.path / "work"

    @property
    def run(self) -> Path:
        """Of the running site: status.json and its pid."""
        return self.path / "run"

    def create(self) -> None:
        """Make the folders and the keys; what is there is kept."""
        folders = (self.path, self.keys, self.kit, self.audit.parent, self.state, self.work, self.run)
        for folder in folders:
            make_folder(folder)
        make_identity(self.keys)
        if not self.node_key.exists():
            write_secret(self.node_key, _new_node_key())

    def identity(self) -> Ed25519PrivateKey:
        """Read the identity key.

        Raises:
            TrustError: it is missing, damaged, or others can read it.

        """
        return load_signing_key(self.keys / "identity.key")

    def node(self) -> ec.EllipticCurvePrivateKey:
        """Read the node key.

        Raises:
            TrustError: it is missing, damaged, or others can read it.

        """
        try:
            key = serialization.load_pem_private_key(read_secret(self.node_key), password=None)
        except ValueError as fault:
            raise TrustError(f"{self.node_key} is no key.", "Set the site up again.") from fault
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp384r1":
            raise TrustError(f"{self.node_key} is no secp384r1 key.", "Set the site up again.")
        return key

    def node_public(self) -> str:
        """Return the public half of the node key, PEM."""
        pem = (
            self.node()
            .public_key()
            .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        )
        return pem.decode()


def _new_node_key() -> bytes:
    return ec.generate_private_key(ec.SECP384R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
