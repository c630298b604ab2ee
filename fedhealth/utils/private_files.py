"""Private folders (0700) and files (0600): keys, tokens, and what a site or the lead keeps to itself."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedhealth.errors import TrustError
from fedhealth.utils.atomic_io import sync_folder


def make_folder(path: Path) -> Path:
    """Make a folder that only its owner can enter, or take the rights of others away; return it."""
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.chmod(0o700)
    return path


def write_secret(path: Path, content: bytes) -> None:
    """Write a file that only its owner can read, whole or not at all, durably."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    draft.unlink(missing_ok=True)
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    sync_folder(path.parent)


def read_secret(path: Path) -> bytes:
    """Read a file that must be its owner's alone.

    Raises:
        TrustError: it is not there, or others can read it.

    """
    try:
        mode = path.stat().st_mode
        content = path.read_bytes()
    except OSError as fault:
        raise TrustError(f"{path} cannot be read ({fault.strerror}).", "Set this place up again.") from fault
    if stat.S_IMODE(mode) & 0o077:
        raise TrustError(
            f"{path} can be read by others.", f"chmod 600 {path}; if it may have been read, make a new one."
        )
    return content


def make_signing_key(path: Path) -> bytes:
    """Make an Ed25519 key at `path`, or keep the one there; return the public half, 32 bytes."""
    if not path.exists():
        write_secret(path, Ed25519PrivateKey.generate().private_bytes_raw())
    return load_signing_key(path).public_key().public_bytes_raw()


def load_signing_key(path: Path) -> Ed25519PrivateKey:
    """Read an Ed25519 key.

    Raises:
        TrustError: no key there, others can read it, or it is damaged.

    """
    try:
        return Ed25519PrivateKey.from_private_bytes(read_secret(path))
    except ValueError as fault:
        raise TrustError(f"{path} is no Ed25519 key.", "Restore it from its backup.") from fault
