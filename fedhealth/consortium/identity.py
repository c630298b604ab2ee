"""A site's identity key and the members it approved. The key is made here and never leaves."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedhealth.consortium.roster import Roster
from fedhealth.errors import SecureAggregationError
from fedhealth.utils.atomic_io import write_atomic

_KEY, _ROSTER = "identity.key", "roster.json"
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - tmpfs: below it a folder of our own, 0700


def make_identity(folder: Path) -> bytes:
    """Make an Ed25519 key below `folder` (file 0600), or keep the one there; return the public key."""
    path = folder / _KEY
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(Ed25519PrivateKey.generate().private_bytes_raw())
    return load_identity(folder).public_key().public_bytes_raw()


def load_identity(folder: Path) -> Ed25519PrivateKey:
    """Read the key below `folder`.

    Raises:
        SecureAggregationError: no key there, or not a key.

    """
    try:
        return Ed25519PrivateKey.from_private_bytes((folder / _KEY).read_bytes())
    except (OSError, ValueError) as fault:
        problem = f"{folder / _KEY}: no identity key ({fault})."
        raise SecureAggregationError(problem, "Set the site up again.") from fault


def save_roster(folder: Path, members: Mapping[str, bytes]) -> None:
    """Write the approved members {site: public key}."""
    Roster.of(members)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    listed = json.dumps({site: key.hex() for site, key in members.items()})
    write_atomic(folder / _ROSTER, listed.encode())


def load_roster(folder: Path) -> Roster:
    """Read the approved members.

    Raises:
        SecureAggregationError: no list there, or a malformed one.

    """
    try:
        listed = json.loads((folder / _ROSTER).read_text("utf-8"))
        return Roster.of({str(site): bytes.fromhex(key) for site, key in listed.items()})
    except (OSError, ValueError, AttributeError, TypeError) as fault:
        problem = f"{folder / _ROSTER}: no list of approved members ({fault})."
        raise SecureAggregationError(problem, "Approve the consortium's members first.") from fault


def secrets_folder(run: str, site: str, fallback: Path) -> Path:
    """Return where a site keeps what must not outlive the machine: tmpfs where there is one."""
    if os.access(_SHARED_MEMORY, os.W_OK):
        return _SHARED_MEMORY / f"fedhealth-{os.getuid()}" / run / site
    return fallback / "secrets"
