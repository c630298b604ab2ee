"""Write decoded pixels to disk in the worker, so that they are not sent between processes."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from fedhealth.ingest.examine import DecodedImage, DicomSeries, ExamineOptions, ExamineResult, examine_unit
from fedhealth.ingest.pixel_layout import HEADER_BYTES
from fedhealth.ingest.source import SourceFile


class PixelTask(NamedTuple):
    """A file or series to examine.

    Attributes:
        unit: a file or series.
        slot: of its first image in the shared file; further images go to the worker's own file.

    """

    unit: SourceFile | DicomSeries
    slot: int | None = None


@dataclass
class _PixelFile:
    """An open file of pixels, and its next free slot."""

    descriptor: int
    name: str
    slots: int = 0


_OPEN_FILES: dict[Path, _PixelFile] = {}


def examine_and_write(options: ExamineOptions, shared: Path, task: PixelTask) -> ExamineResult | OSError:
    """Examine a unit and write its pixels to `shared` or beside it; return, not raise, an error of the disk."""
    found = examine_unit(options, task.unit)
    kept = (
        _write_pixels(shared, picture, None if number else task.slot) for number, picture in enumerate(found.pictures)
    )
    try:
        return replace(found, pictures=tuple(kept))
    except OSError as fault:
        return OSError(fault.errno, fault.strerror, str(shared))


def _write_pixels(shared: Path, picture: DecodedImage, slot: int | None) -> DecodedImage:
    file = _open_file(shared if slot is not None else shared.parent)
    if slot is None:
        slot, file.slots = file.slots, file.slots + 1
    left, place = memoryview(picture.pixels), HEADER_BYTES + slot * len(picture.pixels)
    while left:  # a write may be partial
        written = os.pwrite(file.descriptor, left, place)
        left, place = left[written:], place + written
    return DecodedImage(b"", picture.digest, file.name, slot)


def _open_file(path: Path) -> _PixelFile:
    """Open an existing file, or create this process's own file in a folder."""
    if path not in _OPEN_FILES:
        own = path.is_dir()
        file = path / f"{os.getpid()}-{time.time_ns()}.bin" if own else path
        how = os.O_WRONLY | os.O_CLOEXEC | (os.O_CREAT | os.O_EXCL if own else 0)
        _OPEN_FILES[path] = _PixelFile(os.open(file, how, 0o600), file.name)
    return _OPEN_FILES[path]
