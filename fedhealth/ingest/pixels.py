"""Where kept pixels lie on disk: in the finished cache, and in the files that an ingest is filling.

An ingest knows from its start which files there are, so each worker writes the first image of a file into the slot that
it most likely keeps, of one file that they share. Only what turns out to be in the wrong place is moved in the end:
further images of a file and those of series, which go to a file of the worker's own at first, and images beyond the
last slot once it is known how many there are.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from fedhealth.ingest.records import Kept

HEADER = 128
"""Bytes before the first image; NumPy's header has as many, whatever the number of images."""


def header(count: int, shape: tuple[int, ...], kind: np.dtype[Any]) -> bytes:
    """Return what a .npy file of images [count, *shape] begins with."""
    file = io.BytesIO()
    about = {"descr": kind.str, "fortran_order": False, "shape": (count, *shape)}
    np.lib.format.write_array_header_1_0(file, about)
    return file.getvalue()


def places(pictures: Sequence[tuple[str, int]], slots: Mapping[str, int]) -> list[int]:
    """Return the slot of each picture in a cache without gaps; it depends on nothing but the arguments.

    Args:
        pictures: (name, number among those of the name).
        slots: of the first picture of a name, if there are that many; the others fill the gaps in order.

    """
    count = len(pictures)
    wanted = [count if number else slots.get(name, count) for name, number in pictures]
    gaps = iter(sorted(set(range(count)).difference(wanted)))
    return [slot if slot < count else next(gaps) for slot in wanted]


def digest_of(pixels: bytes) -> str:
    """Return what tells pixels from others."""
    return hashlib.sha256(pixels).hexdigest()[:32]


class Pixels:
    """Pixels on disk, by their place; a context, at whose end the files are closed.

    Args:
        work: folder of the files that are being filled.
        finished: the cache of an earlier ingest, if there is one.
        record: bytes of an image.

    """

    def __init__(self, work: Path, finished: Path | None, record: int) -> None:
        self._work, self._finished, self._record = work, finished, record
        self._files, self._open = ExitStack(), dict[str, BinaryIO]()

    def __enter__(self) -> Pixels:
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()

    def read(self, picture: Kept) -> bytes | None:
        """Return an image's pixels; null where they are not those that were written."""
        try:
            file = self._opened(picture.file)
        except FileNotFoundError:
            return None
        file.seek(HEADER + picture.slot * self._record)
        pixels = file.read(self._record)
        return pixels if digest_of(pixels) == picture.digest else None

    def _opened(self, name: str) -> BinaryIO:
        if name not in self._open:
            path = self._finished if not name and self._finished else self._work / name
            self._open[name] = self._files.enter_context(path.open("rb"))
        return self._open[name]
