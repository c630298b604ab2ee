"""What is done of an ingest, on disk as soon as it is done; and the cache that is made of it.

In a cohort's folder: `images-DIGEST.npy`, and `items.jsonl`, which says for every file what became of it and where
its images are. What an ingest has done so far lies in `work/`: the same list, and files of pixels. An ingest that is
interrupted goes on from there. The place of an image in the finished file depends on names alone, so that the same
files give the same bytes whoever decoded them and when.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from fedhealth.errors import DataError
from fedhealth.ingest.examine import Found
from fedhealth.ingest.pixels import HEADER, Pixels, header, places
from fedhealth.ingest.records import Entry, Kept, entry_of, line_of, read_lines
from fedhealth.utils.atomic_io import write_atomic

ITEMS = "items.jsonl"
_FLUSH_EVERY, _SYNC_EVERY = 32, 512  # entries; what was not flushed when a process is killed is read again


class Store:
    """A cohort's folder while it is being filled.

    Args:
        folder: of the cohort.
        names: of all files, by which images are ordered.
        shape: of one image: channels, rows, columns.
        kind: of its values.
        meaning: whatever decides how a file is turned into pixels; entries of another meaning are forgotten.

    Attributes:
        slots: of the first image of each file, where workers write it in the file `shared`.

    """

    def __init__(
        self, folder: Path, names: Iterable[str], shape: tuple[int, ...], kind: np.dtype[Any], meaning: str
    ) -> None:
        self.folder, self._work, self._shape, self._kind = folder, folder / "work", shape, kind
        self._record = int(np.prod(shape)) * kind.itemsize
        self._meaning = hashlib.sha256(meaning.encode()).hexdigest()
        self.slots = {name: slot for slot, name in enumerate(sorted(names))}
        all_names = hashlib.sha256(json.dumps(list(self.slots)).encode()).hexdigest()
        self.shared = self._work / f"{all_names[:32]}.bin"
        self._finished, finished = self._read(folder / ITEMS)
        begun, working = self._read(self._work / ITEMS)
        if begun is None:
            shutil.rmtree(self._work, ignore_errors=True)
            self._work.mkdir(mode=0o700)
        self.shared.touch(mode=0o600)
        whole = self._whole(working)
        self._write(self._work / ITEMS, "", whole.values())
        self._journal = (self._work / ITEMS).open("a", encoding="ascii")
        self._known, self._added = finished | whole, 0

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError) if isinstance(fault, OSError) else nullcontext(), self._journal:  # the first says more
            self._sync()

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
            self._flush()
        if self._added % _SYNC_EVERY == 0:
            self._sync()
        self._known[name] = entry
        return entry

    def finish(self, entries: Sequence[Entry]) -> tuple[str, list[Entry]]:
        """Write the file of images and the list of entries; return the file's name, and the entries' final places.

        Args:
            entries: all of the cohort, in an order that depends on their names alone.

        Raises:
            DataError: pixels on disk are not those that were written.

        """
        pictures = [picture for entry in entries for picture in entry.pictures]
        named = [(entry.name, number) for entry in entries for number in range(len(entry.pictures))]
        slots = places(named, self.slots)
        final = [Kept("", slot, picture.digest) for slot, picture in zip(slots, pictures, strict=True)]
        digests = [picture.digest for picture in sorted(final, key=lambda picture: picture.slot)]
        whole = json.dumps([self._shape, self._kind.str, digests]).encode()
        name = f"images-{hashlib.sha256(whole).hexdigest()[:32]}.npy"
        if not (self.folder / name).is_file():
            self._write_images(self.folder / name, pictures, slots)
        left = iter(final)
        placed = [replace(entry, pictures=tuple(islice(left, len(entry.pictures)))) for entry in entries]
        self._write(self.folder / ITEMS, name, placed)
        return name, placed

    def tidy(self, images: str) -> None:
        """Remove what the finished cache replaces."""
        shutil.rmtree(self._work, ignore_errors=True)
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

    def _whole(self, working: Mapping[str, Entry]) -> dict[str, Entry]:
        """Return the entries whose pixels are there: a power cut may have kept the list and lost some of them."""
        with Pixels(self._work, None, self._record) as pixels:
            return {
                name: entry
                for name, entry in working.items()
                if all(each.file and pixels.read(each) is not None for each in entry.pictures)
            }

    def _write_images(self, target: Path, pictures: Sequence[Kept], slots: Sequence[int]) -> None:
        """Make the shared file the cache: most images lie in their places."""
        with self.shared.open("r+b") as images, Pixels(self._work, self._finished, self._record) as pixels:
            for picture, slot in zip(pictures, slots, strict=True):
                if (picture.file, picture.slot) == (self.shared.name, slot):
                    continue
                content = pixels.read(picture)
                if content is None:
                    raise DataError(
                        f"{self.folder}: the pixels of one image are not those that were written.",
                        "Check the disk; remove the folder and ingest again.",
                    )
                images.seek(HEADER + slot * self._record)
                images.write(content)
            images.seek(0)
            images.write(header(len(slots), self._shape, self._kind))
            images.truncate(HEADER + len(slots) * self._record)
            images.flush()
            os.fsync(images.fileno())
        self.shared.replace(target)

    def _sync(self) -> None:
        """Have pixels on the disk before the list that speaks of them."""
        for path in self._work.glob("*.bin"):
            with path.open("rb") as file:
                os.fsync(file.fileno())
        self._flush()
        os.fsync(self._journal.fileno())

    def _flush(self) -> None:
        try:
            self._journal.flush()
        except OSError as fault:
            fault.filename = str(self._work / ITEMS)
            raise
