"""What makes a new name outlast the machine's end; the file's own content is synced by whoever writes it."""

from __future__ import annotations

import os
from pathlib import Path


def sync_folder(folder: Path) -> None:
    """Bring a folder's list of names to the disk: after this a rename or a removal in it holds."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
