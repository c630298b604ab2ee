"""A private folder for the ledgers of an audit, in memory where there is some: they need no disk and no backup."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory

_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - tmpfs: below it a new folder of our own, 0700


def open_scratch_folder() -> TemporaryDirectory[str]:
    """Return a folder that is deleted at the end of its context."""
    in_memory = _SHARED_MEMORY.is_dir() and os.access(_SHARED_MEMORY, os.W_OK)
    return TemporaryDirectory(prefix="fedhealth-audit-", dir=_SHARED_MEMORY if in_memory else None)
