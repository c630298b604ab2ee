"""Write a file whole or not at all, and make it durable: the only place that writes files atomically."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file so that a reader (or a crash) sees the old content or the new, never a part; durably.

    Raises:
        OSError: naming `path`, which is as it was; what was begun is removed.

    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    try:
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
        sync_folder(path.parent)
    except OSError as fault:
        if fault.errno is not None:
            fault.filename = str(path)
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise


def write_json(path: Path, content: object) -> None:
    """Write `content` as readable JSON, atomically."""
    write_atomic(path, json.dumps(content, indent=1, sort_keys=False, default=_plain).encode())


def read_json(path: Path) -> Any:
    """Read JSON; None where the file does not exist."""
    return json.loads(path.read_text("utf-8")) if path.is_file() else None


def _plain(value: object) -> object:
    """Return numbers and arrays of numpy as Python's own, anything else as text."""
    tolist = getattr(value, "tolist", None)
    return tolist() if tolist else str(value)


def sync_folder(folder: Path) -> None:
    """Bring a folder's list of names to the disk: after this a rename or a removal in it holds."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
