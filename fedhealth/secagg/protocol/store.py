"""Durable key-value stores; every write is atomic."""

import contextlib
import hashlib
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from fedhealth.utils.atomic_io import atomic_writer, fsync_folder, rewrite_file
from fedhealth.utils.file_lock import lock_file


def build_hashed_name(prefix: str, name: str) -> str:
    """Return a short file name for a name that may be long or hold slashes."""
    return f"{prefix}-{hashlib.sha256(name.encode()).hexdigest()[:32]}"


class StateStore(Protocol):
    """Named byte strings. A write has survived every crash of the process when it returns, and `put` is atomic."""

    def get(self, name: str) -> bytes | None:
        """Return the value, or None when there is none."""

    def put(self, name: str, *parts: bytes | memoryview) -> None:
        """Replace the value by these parts, one after the other."""

    def rewrite(self, name: str, *parts: bytes | memoryview) -> None:
        """Do what `put` does for a large value, which may lie where the old one was; a crash may leave no value."""

    def delete(self, name: str) -> None:
        """Remove the value; no error when there is none."""

    def lock(self) -> AbstractContextManager[object]:
        """Lock the store against all others that ask for the lock."""


class MemoryStore:
    """A store in memory: for tests, in-process runs and long-lived processes."""

    def __init__(self) -> None:
        self._values: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def get(self, name: str) -> bytes | None:
        """Return the value, or None when there is none."""
        return self._values.get(name)

    def put(self, name: str, *parts: bytes | memoryview) -> None:
        """Replace the value by these parts, one after the other."""
        self._values[name] = b"".join(parts)

    def rewrite(self, name: str, *parts: bytes | memoryview) -> None:
        """Replace the value by these parts."""
        self.put(name, *parts)

    def delete(self, name: str) -> None:
        """Remove the value; no error when there is none."""
        self._values.pop(name, None)

    def lock(self) -> AbstractContextManager[object]:
        """Lock the store against other threads."""
        return self._lock


class FileStore:
    """A store in a folder that only its owner can read (0700, files 0600).

    The journal belongs on disk; secrets belong on tmpfs, outside every backup. What is written is synced before `put`
    returns, except within `unsynced_files`.

    Args:
        folder: it is created if it is missing.

    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        self._folder = folder

    def get(self, name: str) -> bytes | None:
        """Return the value, or None when there is none."""
        try:
            return (self._folder / name).read_bytes()
        except FileNotFoundError:
            return None

    def put(self, name: str, *parts: bytes | memoryview) -> None:
        """Replace the value by these parts, atomically; the file has mode 0600."""
        with atomic_writer(self._folder / name, 0o600, single_writer=True) as file:
            file.writelines(parts)

    def rewrite(self, name: str, *parts: bytes | memoryview) -> None:
        """Replace a large value by these parts where it lies; a crash leaves the new value or none."""
        rewrite_file(self._folder / name, parts, 0o600)

    def delete(self, name: str) -> None:
        """Remove the value; no error when there is none."""
        with contextlib.suppress(FileNotFoundError):
            (self._folder / name).unlink()
            fsync_folder(self._folder)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the store against other processes; a crash releases the lock."""
        with lock_file(self._folder / ".lock"):
            yield
