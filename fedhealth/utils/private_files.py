"""Private folders (0700) and files (0600): keys, tokens and other data that no other user may read."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedhealth.errors import TrustError
from fedhealth.utils.atomic_io import create_once, write_atomic
from fedhealth.utils.plain_files import read_plain_file


def make_private_folder(path: Path) -> Path:
    """Create a folder that only its owner can enter, or remove the permissions of others; return it."""
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.chmod(0o700)
    return path


def make_own_folder(path: Path) -> Path:
    """Create a folder below one that others may write to, or check that an existing one is ours; return it.

    The permissions of others are removed from it. A link is refused: it may lead anywhere.

    Raises:
        TrustError: it belongs to another user, or is no folder.

    """
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
    about = path.lstat()
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.geteuid():
        raise TrustError(
            f"{path} belongs to another user, or is no folder.", "Somebody else made it: find out who, and remove it."
        )
    path.chmod(0o700)
    return path


def write_private_file(path: Path, content: bytes) -> None:
    """Write a file that only its owner can read, atomically and durably."""
    write_atomic(path, content, 0o600)


def read_private_file(path: Path) -> bytes:
    """Read a file that only its owner may be able to read.

    Raises:
        TrustError: it does not exist, or others can read it.

    """
    try:
        mode = path.stat().st_mode
        content = read_plain_file(path)
    except OSError as fault:
        raise TrustError(
            f"{path} cannot be read ({fault.strerror}).", "Restore it from its backup, or set this machine up again."
        ) from fault
    if stat.S_IMODE(mode) & 0o077:
        raise TrustError(
            f"{path} can be read by others.", f"Run chmod 600 {path}; if somebody may have read it, make a new one."
        )
    return content


def make_signing_key(path: Path) -> bytes:
    """Create an Ed25519 key at `path` unless there is one; return the public key, 32 bytes.

    Of several processes that try at once, the first one creates it and all return its key.
    """
    create_once(path, lambda: Ed25519PrivateKey.generate().private_bytes_raw(), 0o600)
    return load_signing_key(path).public_key().public_bytes_raw()


def load_signing_key(path: Path) -> Ed25519PrivateKey:
    """Read an Ed25519 key.

    Raises:
        TrustError: the file does not exist, others can read it, or it is damaged.

    """
    try:
        return Ed25519PrivateKey.from_private_bytes(read_private_file(path))
    except ValueError as fault:
        raise TrustError(f"{path} is not an Ed25519 key.", "Restore it from its backup.") from fault
