"""A site's identity key and its approved members. The key is generated at the site and never leaves it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedhealth.consortium.roster import Roster
from fedhealth.errors import SecureAggregationError
from fedhealth.utils.atomic_io import create_once, write_atomic
from fedhealth.utils.json_model import decode_hex, parse_model
from fedhealth.utils.plain_files import is_plain_file, read_plain_file
from fedhealth.utils.private_files import make_own_folder

_KEY, _ROSTER = "identity.key", "roster.json"
_ADVICE = "Approve the consortium's members first."
_Keys = dict[str, Annotated[bytes, decode_hex(32)]]
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - tmpfs: below it a folder of our own, 0700


def make_identity(folder: Path) -> bytes:
    """Create an Ed25519 key below `folder` (file 0600) unless there is one; return the public key.

    An existing key is never replaced, also if several processes try to create it at once.
    """
    path = folder / _KEY
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    create_once(path, lambda: Ed25519PrivateKey.generate().private_bytes_raw(), 0o600)
    return load_identity(folder).public_key().public_bytes_raw()


def load_identity(folder: Path) -> Ed25519PrivateKey:
    """Read the key below `folder`.

    Raises:
        SecureAggregationError: there is no key, or the file is not a key.

    """
    try:
        return Ed25519PrivateKey.from_private_bytes((folder / _KEY).read_bytes())
    except (OSError, ValueError) as fault:
        problem = f"{folder / _KEY}: no identity key ({fault})."
        raise SecureAggregationError(problem, "Set the site up again.") from fault


def save_roster(folder: Path, members: Mapping[str, bytes]) -> None:
    """Save the approved members {site: public key}."""
    Roster.from_keys(members)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    listed = json.dumps({site: key.hex() for site, key in members.items()})
    write_atomic(folder / _ROSTER, listed.encode())


def load_roster(folder: Path) -> Roster:
    """Load the approved members.

    Raises:
        SecureAggregationError: there is no list, or it is malformed.

    """
    path = folder / _ROSTER
    if not is_plain_file(path):
        raise SecureAggregationError(f"{path}: no list of approved members.", _ADVICE)
    return _parse_roster_once(read_plain_file(path), path)


@lru_cache(maxsize=512)
def _parse_roster_once(content: bytes, path: Path) -> Roster:
    """Return a list of members; it is read for every message, and by every virtual site of a process."""
    return Roster.from_keys(parse_model(content, _Keys, f"{path} is damaged", _ADVICE, SecureAggregationError))


def get_secrets_folder(run: str, site: str, fallback: Path) -> Path:
    """Return the folder for secrets that must not survive a reboot: on tmpfs if available."""
    if os.access(_SHARED_MEMORY, os.W_OK):
        return _SHARED_MEMORY / f"fedhealth-{os.getuid()}" / run / site
    return fallback / "secrets"


def make_secrets_folder(run: str, site: str, fallback: Path) -> Path:
    """Create the folder for secrets, only for its owner (0700), and return it.

    Everybody on the machine may write to /dev/shm: a folder that another user has prepared there is refused.

    Raises:
        TrustError: a folder on the way belongs to another user, or is no folder.

    """
    folder = get_secrets_folder(run, site, fallback)
    parents = [folder.parents[1], folder.parent] if folder.is_relative_to(_SHARED_MEMORY) else []
    for each in (*parents, folder):
        make_own_folder(each)
    return folder
