"""Locks between processes: a file that one process at a time holds. A lock ends with the process that holds it."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

_POLL_SECONDS = 0.05


@contextmanager
def lock_file(path: Path, wait: float | None = None, error: Exception | None = None) -> Iterator[IO[str]]:
    """Hold an exclusive lock on a file until the block ends, and yield the open file.

    Args:
        path: the lock file; it is created if it is missing, and its content is left as it is.
        wait: seconds to wait for another holder; None waits without limit.
        error: raised after that time; a BlockingIOError by default.

    """
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+") as file:
        if wait is None:
            fcntl.flock(file, fcntl.LOCK_EX)
        else:
            _acquire_before(file, time.monotonic() + wait, error)
        yield file


def is_locked(path: Path) -> bool:
    """Return whether a process holds the lock of `lock_file(path)`."""
    if not path.is_file():
        return False
    with path.open() as file:
        return not _try_flock(file, fcntl.LOCK_SH)


def _acquire_before(file: IO[str], deadline: float, error: Exception | None) -> None:
    while not _try_flock(file, fcntl.LOCK_EX):
        if time.monotonic() >= deadline:
            raise error or BlockingIOError(f"{file.name} is locked")
        time.sleep(_POLL_SECONDS)


def _try_flock(file: IO[str], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
