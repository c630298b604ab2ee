"""What is done of an ingest, on disk as soon as it is done; and the cache that is made of it.

In a cohort's folder: `images-DIGEST.npy`, and `items.jsonl`, which says for every file what became of it and where
its images are. What an ingest has done so far lies in `work/`: the same list, and a file of pixels from each worker. An
ingest that is interrupted goes on from there. The finished file of images is written in the order of the files' names,
so that the same files give the same bytes whoever decoded them and when.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np

from fedhealth.errors import DataError
from fedhealth.ingest.entries import Entry, Kept, entry_of, line_of, read_lines
from fedhealth.ingest.examine import Found
from fedhealth.rundir import write_atomic

ITEMS = "items.jsonl"
_FLUSH_EVERY, _SYNC_EVERY = 32, 512  # entries; what was not flushed when a process is killed is read again


class Store:
    """A cohort's folder while it is being filled.

    Args:
        folder: of the cohort.
        shape: of one image: channels, rows, columns.
        kind: of its values.
        meaning: whatever decides how a file is turned into pixels; entries of another meaning are forgotten.

    """

    def __init__(self, folder: Path, shape: tuple[int, ...], kind: np.dtype[Any], meaning: str) -> None:
        self.folder, self.work, self._shape, self._kind = folder, folder / "work", shape, kind
        self._record = int(np.prod(shape)) * kind.itemsize
        self._meaning = hashlib.sha256(meaning.encode()).hexdigest()
        self._finished, finished = self._read(folder / ITEMS)
        begun, working = self._read(self.work / ITEMS)
        if begun is None:
            shutil.rmtree(self.work, ignore_errors=True)
            self.work.mkdir(mode=0o700)
        sizes = {path.name: path.stat().st_size for path in self.work.glob("*.bin")}
        whole = {  # a power cut may have kept the list and lost the pixels
            name: entry
            for name, entry in working.items()
            if all((each.slot + 1) * self._record <= sizes.get(each.file, 0) for each in entry.pictures)
        }
        self._earlier = {"", *sizes}  # files that this run did not write: what is read from them is checked
        self._write(self.work / ITEMS, "", whole.values())
        self._journal = (self.work / ITEMS).open("a", encoding="ascii")
        self._known, self._added = finished | whole, 0

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._sync()
        self._journal.close()

    def known(self, name: str, stamp: str) -> Entry | None:
        """Return what became of a file or series that has not changed since."""
        entry = self._known.get(name)
        return entry if entry is not None and entry.stamp == stamp else None

    def add(self, name: str, stamp: str, found: Found) -> Entry:
        """Write down what became of a file or series, its pixels being in a file of `work`."""
        pictures = tuple(Kept(picture.file, picture.slot, picture.digest) for picture in found.pictures)
        again = stamp if found.lasting else ""
        entry = Entry(name, again, found.facts, found.rule, found.left_out, found.rejected, pictures)
        self._journal.write(line_of(entry))
        self._added += 1
        if self._added % _FLUSH_EVERY == 0:
            self._journal.flush()
        if self._added % _SYNC_EVERY == 0:
            self._sync()
        self._known[name] = entry
        return entry

    def finish(self, entries: Sequence[Entry]) -> tuple[str, list[Entry]]:
        """Write the file of images and the list of entries; return the file's name, and the entries' final places.

        Args:
            entries: all of the cohort, in the order of the cache.

        Raises:
            DataError: pixels on disk are not those that were written.

        """
        self._sync()
        digests = [picture.digest for entry in entries for picture in entry.pictures]
        whole = json.dumps([self._shape, self._kind.str, digests]).encode()
        name = f"images-{hashlib.sha256(whole).hexdigest()[:32]}.npy"
        if not (self.folder / name).is_file():
            self._write_images(self.folder / name, entries, len(digests))
        placed, slot = [], 0
        for entry in entries:
            kept = tuple(Kept("", slot + number, picture.digest) for number, picture in enumerate(entry.pictures))
            slot += len(kept)
            placed.append(replace(entry, pictures=kept))
        self._write(self.folder / ITEMS, name, placed)
        return name, placed

    def tidy(self, images: str) -> None:
        """Remove what the finished cache replaces."""
        shutil.rmtree(self.work, ignore_errors=True)
        for path in self.folder.glob("images-*.npy"):
            if path.name != images:
                path.unlink()

    def _read(self, path: Path) -> tuple[Path | None, dict[str, Entry]]:
        """Read entries, and where those of a finished cache have their pixels; nothing where they are not ours."""
        if not path.is_file():
            return None, {}
        lines = read_lines(path)
        heading = next(lines, {})
        images = path.parent / str(heading.get("images"))
        if heading.get("meaning") != self._meaning or not images.exists():
            return None, {}
        entries = map(entry_of, lines)
        return images, {entry.name: entry for entry in entries if entry is not None}

    def _write(self, path: Path, images: str, entries: Iterable[Entry]) -> None:
        heading = json.dumps({"meaning": self._meaning, "images": images}) + "\n"
        write_atomic(path, (heading + "".join(map(line_of, entries))).encode("ascii"))

    def _write_images(self, target: Path, entries: Sequence[Entry], count: int) -> None:
        draft = target.with_name(f".{target.name}.draft")
        with ExitStack() as files, draft.open("wb") as images:
            header = {"descr": self._kind.str, "fortran_order": False, "shape": (count, *self._shape)}
            np.lib.format.write_array_header_1_0(images, header)
            origins: dict[str, tuple[BinaryIO, int]] = {}
            for picture in (picture for entry in entries for picture in entry.pictures):
                if picture.file not in origins:
                    origins[picture.file] = self._opened(picture.file, files)
                images.write(self._pixels(picture, *origins[picture.file]))
            images.flush()
            os.fsync(images.fileno())
        draft.replace(target)

    def _opened(self, name: str, files: ExitStack) -> tuple[BinaryIO, int]:
        """Open a file of pixels; return it and where its first image begins."""
        if name or self._finished is None:
            return files.enter_context((self.work / name).open("rb")), 0
        file = files.enter_context(self._finished.open("rb"))
        np.lib.format.read_magic(file)
        np.lib.format.read_array_header_1_0(file)
        return file, file.tell()

    def _pixels(self, picture: Kept, file: BinaryIO, start: int) -> bytes:
        file.seek(start + picture.slot * self._record)
        pixels = file.read(self._record)
        if picture.file in self._earlier and hashlib.sha256(pixels).hexdigest()[:32] != picture.digest:
            raise DataError(
                f"{self.folder}: the pixels of one image are not those that were written.",
                "Check the disk; remove the folder and ingest again.",
            )
        return pixels

    def _sync(self) -> None:
        """Have pixels on the disk before the list that speaks of them."""
        for path in self.work.glob("*.bin"):
            with path.open("rb") as file:
                os.fsync(file.fileno())
        self._journal.flush()
        os.fsync(self._journal.fileno())
