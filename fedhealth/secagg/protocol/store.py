"""Small durable stores: a name, some bytes, written whole or not at all."""

import contextlib
import fcntl
import hashlib
import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from fedhealth.utils.atomic_io import sync_folder


def hashed_name(prefix: str, name: str) -> str:
    """Return a short file name for a name that may be long or hold slashes."""
    return f"{prefix}-{hashlib.sha256(name.encode()).hexdigest()[:32]}"


class Store(Protocol):
    """Named byte strings. A write is durable when it returns, and replaces the old value atomically."""

    def read(self, name: str) -> bytes | None:
        """Return the value, or None when there is none."""

    def write(self, name: str, data: bytes | memoryview) -> None:
        """Replace the value."""

    def delete(self, name: str) -> None:
        """Remove the value; no error when there is none."""

    def locked(self) -> AbstractContextManager[object]:
        """Keep every other reader and writer that asks for the lock away."""


class MemoryStore:
    """A store that lives as long as its process: for tests, in-process runs and the warm parent."""

    def __init__(self) -> None:
        self._values: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def read(self, name: str) -> bytes | None:
        """Return the value, or None when there is none."""
        return self._values.get(name)

    def write(self, name: str, data: bytes | memoryview) -> None:
        """Replace the value."""
        self._values[name] = bytes(data)

    def delete(self, name: str) -> None:
        """Remove the value; no error when there is none."""
        self._values.pop(name, None)

    def locked(self) -> AbstractContextManager[object]:
        """Keep every other thread that asks for the lock away."""
        return self._lock


class FileStore:
    """A store in a folder that only its owner can read (0700, files 0600).

    The journal belongs on disk; secrets belong on tmpfs, outside every backup.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        self._folder = folder

    def read(self, name: str) -> bytes | None:
        """Return the value, or None when there is none."""
        try:
            return (self._folder / name).read_bytes()
        except FileNotFoundError:
            return None

    def write(self, name: str, data: bytes | memoryview) -> None:
        """Write to a temporary name, fsync, rename, fsync the folder."""
        temporary = self._folder / f".{name}.part"
        # A part left by a crash may belong to nobody's mode; O_EXCL makes ours.
        temporary.unlink(missing_ok=True)
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(self._folder / name)
        sync_folder(self._folder)

    def delete(self, name: str) -> None:
        """Remove the value; no error when there is none."""
        with contextlib.suppress(FileNotFoundError):
            (self._folder / name).unlink()
            sync_folder(self._folder)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every other process that asks for the lock away; a crash releases it."""
        handle = os.open(self._folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)
