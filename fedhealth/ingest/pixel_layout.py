"""Where pixels are stored: in the finished image file, and in the work files of a running ingest.

The names of all files are known from the start, so each worker writes the first image of a file to its expected final
slot in one shared file. At the end only misplaced images are moved: further images of a file and images of series
(written to a worker's own file first), and images beyond the last slot, once the number of images is known.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from fedhealth.ingest.records import StoredImage

HEADER_BYTES = 128
"""Bytes before the first image: the size of NumPy's header for any number of images."""


def build_npy_header(count: int, shape: tuple[int, ...], kind: np.dtype[Any]) -> bytes:
    """Return the header of a .npy file of images [count, *shape]."""
    file = io.BytesIO()
    about = {"descr": kind.str, "fortran_order": False, "shape": (count, *shape)}
    np.lib.format.write_array_header_1_0(file, about)
    return file.getvalue()


def assign_slots(pictures: Sequence[tuple[str, int]], slots: Mapping[str, int]) -> list[int]:
    """Return the slot of each picture in an image file without gaps; depends only on the arguments.

    Args:
        pictures: (name of file or series, index of the picture in it).
        slots: preferred slot of the first picture of a name, if below the total; the others fill the gaps in order.

    """
    count = len(pictures)
    wanted = [count if number else slots.get(name, count) for name, number in pictures]
    gaps = iter(sorted(set(range(count)).difference(wanted)))
    return [slot if slot < count else next(gaps) for slot in wanted]


def hash_pixels(pixels: bytes) -> str:
    """Return a digest of the pixels."""
    return hashlib.sha256(pixels).hexdigest()[:32]


class PixelReader:
    """Read stored images; a context manager that closes the files at its end.

    Args:
        work: folder of the work files.
        finished: the image file of an earlier ingest, if there is one.
        image_bytes: bytes per image.

    """

    def __init__(self, work: Path, finished: Path | None, image_bytes: int) -> None:
        self._work, self._finished, self._image_bytes = work, finished, image_bytes
        self._files, self._open = ExitStack(), dict[str, BinaryIO]()

    def __enter__(self) -> PixelReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()

    def read(self, picture: StoredImage) -> bytes | None:
        """Return an image's pixels; None if they do not match the digest."""
        try:
            file = self._get_file(picture.file)
        except FileNotFoundError:
            return None
        file.seek(HEADER_BYTES + picture.slot * self._image_bytes)
        pixels = file.read(self._image_bytes)
        return pixels if hash_pixels(pixels) == picture.digest else None

    def _get_file(self, name: str) -> BinaryIO:
        if name not in self._open:
            path = self._finished if not name and self._finished else self._work / name
            self._open[name] = self._files.enter_context(path.open("rb"))
        return self._open[name]
