"""Write kept pixels to disk where they are made: in the worker, so that they need not travel between processes."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from fedhealth.ingest.examine import Found, Picture, Series, Work, examine
from fedhealth.ingest.pixels import HEADER
from fedhealth.ingest.source import Item


class Task(NamedTuple):
    """What a worker is to examine.

    Attributes:
        unit: a file or series.
        slot: of its first picture in the file that workers share; further ones go to a file of the worker's own.

    """

    unit: Item | Series
    slot: int | None = None


@dataclass
class _File:
    """A file of pixels, and the first slot that nothing was appended to."""

    descriptor: int
    name: str
    slots: int = 0


_FILES: dict[Path, _File] = {}


def examine_and_keep(work: Work, shared: Path, task: Task) -> Found | OSError:
    """Do what `examine` does, pixels written to `shared` or beside it; return what the disk does not take."""
    found = examine(work, task.unit)
    kept = (_kept(shared, picture, None if number else task.slot) for number, picture in enumerate(found.pictures))
    try:
        return replace(found, pictures=tuple(kept))
    except OSError as fault:
        return OSError(fault.errno, fault.strerror, str(shared))


def _kept(shared: Path, picture: Picture, slot: int | None) -> Picture:
    file = _opened(shared if slot is not None else shared.parent)
    if slot is None:
        slot, file.slots = file.slots, file.slots + 1
    left, place = memoryview(picture.pixels), HEADER + slot * len(picture.pixels)
    while left:  # a write may take a part only
        written = os.pwrite(file.descriptor, left, place)
        left, place = left[written:], place + written
    return Picture(b"", picture.digest, file.name, slot)


def _opened(path: Path) -> _File:
    """Return a file that is there, or in a folder the one of this process."""
    if path not in _FILES:
        own = path.is_dir()
        file = path / f"{os.getpid()}-{time.time_ns()}.bin" if own else path
        how = os.O_WRONLY | os.O_CLOEXEC | (os.O_CREAT | os.O_EXCL if own else 0)
        _FILES[path] = _File(os.open(file, how, 0o600), file.name)
    return _FILES[path]
