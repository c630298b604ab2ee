"""Paths of a hospital's folder: policy, keys, kit, audit log and private state. Other users can read none of it.

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
from fedhealth.utils.atomic_io import create_once
from fedhealth.utils.private_files import load_signing_key, make_private_folder, read_private_file
from fedhealth.utils.user_path import expand_user

HOME_VARIABLE = "FEDHEALTH_HOME"
_KEY_ADVICE = (
    "Restore it from a backup. Otherwise move it away, run `fedhealth site init` again, and rejoin at the lead."
)


@dataclass(frozen=True)
class SiteHome:
    """The folder of one site."""

    path: Path

    @classmethod
    def find(cls, path: Path | None = None) -> SiteHome:
        """Return the home at `path`, else at FEDHEALTH_HOME, else at ~/.fedhealth."""
        chosen = path or Path(os.environ.get(HOME_VARIABLE) or "~/.fedhealth")
        return cls(expand_user(chosen).absolute())

    @property
    def policy(self) -> Path:
        """The site's policy, edited by hospital IT."""
        return self.path / "site.yaml"

    @property
    def keys(self) -> Path:
        """Folder of private keys: identity.key (Ed25519) and node.key (EC, secp384r1)."""
        return self.path / "keys"

    @property
    def node_key(self) -> Path:
        """The key with which this node authenticates to the lead's server, PEM."""
        return self.keys / "node.key"

    @property
    def join_request(self) -> Path:
        """The join request to send to the lead."""
        return self.path / "join-request.json"

    @property
    def kit(self) -> Path:
        """Folder of the installed kit: ca.crt and membership.json, both verified and approved."""
        return self.path / "kit"

    @property
    def membership(self) -> Path:
        """The approved, signed list of members."""
        return self.kit / "membership.json"

    @property
    def ca(self) -> Path:
        """The authority certificate that must have signed the certificate of the lead's server."""
        return self.kit / "ca.crt"

    @property
    def audit(self) -> Path:
        """The audit log of everything that left and everything that was refused."""
        return self.path / "audit" / "audit.jsonl"

    @property
    def state(self) -> Path:
        """Private state that outlives runs: privacy ledgers, roster, journals of secure aggregation."""
        return self.path / "state"

    def get_run_folder(self, run: str) -> Path:
        """Return the folder of one run's private state: personal parameters, count of outgoing bytes."""
        return self.state / "runs" / run

    @property
    def studies(self) -> Path:
        """Folder of the studies that the lead has sent, and of what this site's people decided on them."""
        return self.state / "studies"

    @property
    def work(self) -> Path:
        """Scratch folder of tasks."""
        return self.path / "work"

    @property
    def daemon_folder(self) -> Path:
        """Folder of the daemon: status.json, lock with its process id, site.log, metrics, message in progress."""
        return self.path / "run"

    @property
    def last_check(self) -> Path:
        """Time and result of the last check of installation, keys, kit and network."""
        return self.daemon_folder / "last_check.json"

    @property
    def log_file(self) -> Path:
        """The log of the daemon and its workers."""
        return self.daemon_folder / "site.log"

    def create(self) -> None:
        """Create missing folders and keys; existing ones are kept."""
        folders = (self.path, self.keys, self.kit, self.audit.parent, self.state, self.work, self.daemon_folder)
        for folder in folders:
            make_private_folder(folder)
        make_identity(self.keys)
        create_once(self.node_key, _generate_node_key, 0o600)

    def load_identity_key(self) -> Ed25519PrivateKey:
        """Read the identity key.

        Raises:
            TrustError: it is missing, damaged, or others can read it.

        """
        return load_signing_key(self.keys / "identity.key")

    def load_node_key(self) -> ec.EllipticCurvePrivateKey:
        """Read the node key.

        Raises:
            TrustError: it is missing, damaged, or others can read it.

        """
        try:
            key = serialization.load_pem_private_key(read_private_file(self.node_key), password=None)
        except ValueError as fault:
            raise TrustError(f"{self.node_key} is not a private key.", _KEY_ADVICE) from fault
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp384r1":
            raise TrustError(f"{self.node_key} is not a secp384r1 key.", _KEY_ADVICE)
        return key

    def load_node_public_key(self) -> str:
        """Return the public half of the node key, PEM."""
        pem = (
            self.load_node_key()
            .public_key()
            .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        )
        return pem.decode()


def _generate_node_key() -> bytes:
    return ec.generate_private_key(ec.SECP384R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
