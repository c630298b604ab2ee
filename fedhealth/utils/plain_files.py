"""Read files that others may have put in place: a pipe or a device in a file's name would hold its reader for ever."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def open_plain_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file for reading; it never waits.

    Raises:
        OSError: naming `path`, which cannot be read, or is a folder, a pipe or a device.

    """
    handle = _open_without_waiting(path)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "it is no file but a folder, a pipe or a device", str(path))
        with os.fdopen(handle, "rb", closefd=False) as file:
            yield file
    finally:
        os.close(handle)


def read_plain_file(path: Path) -> bytes:
    """Return the content of a file; see `open_plain_file`."""
    with open_plain_file(path) as file:
        return file.read()


def is_plain_file(path: Path) -> bool:
    """Return whether a file is there; False for a path that no file can have, which `Path.is_file` raises for."""
    return os.path.isfile(path)  # noqa: PTH113 - see above


def _open_without_waiting(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError as fault:  # a null byte
        raise OSError(errno.EINVAL, "no file can be called so", str(path)) from fault
