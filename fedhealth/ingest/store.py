"""What is done of an ingest, on disk as soon as it is done; and the cache that is made of it.

In a cohort's folder: `images-DIGEST.npy`, and `items.jsonl`, which says for every file what became of it and where
its images are. What an ingest has done so far lies in `work/` in the same form, pixels appended as they come: an ingest
that is interrupted goes on from there. The finished file of images is written in the order of the files' names, so that
the same files give the same bytes whoever decoded them and when.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np

from fedhealth.errors import DataError
from fedhealth.ingest.examine import Found
from fedhealth.ingest.header import Facts
from fedhealth.rundir import write_atomic

ITEMS = "items.jsonl"
_SYNC_EVERY = 500  # entries
_CHUNK = 256  # images copied at a time


@dataclass(frozen=True, slots=True)
class Kept:
    """Where an image's pixels are: the slot in its file, and their digest."""

    slot: int
    digest: str


@dataclass(frozen=True, slots=True)
class Entry:
    """What became of one file or series; `done` where its pixels are part of a finished cache."""

    name: str
    stamp: str
    facts: Facts | None
    rule: int | None
    left_out: str
    rejected: str
    pictures: tuple[Kept, ...]
    done: bool = False


class Store:
    """A cohort's folder while it is being filled.

    Args:
        folder: of the cohort.
        shape: of one image: channels, rows, columns.
        kind: of its values.
        meaning: whatever decides how a file is turned into pixels; entries of another meaning are forgotten.

    """

    def __init__(self, folder: Path, shape: tuple[int, ...], kind: np.dtype[Any], meaning: str) -> None:
        self.folder, self._shape, self._kind = folder, shape, kind
        self._record = int(np.prod(shape)) * kind.itemsize
        self._meaning, self._work = hashlib.sha256(meaning.encode()).hexdigest(), folder / "work"
        self._finished, finished = self._read(folder / ITEMS, done=True)
        begun, working = self._read(self._work / ITEMS, done=False)
        if begun is None:
            shutil.rmtree(self._work, ignore_errors=True)
            self._work.mkdir(mode=0o700)
        self._pixels = (self._work / "pixels.bin").open("ab")
        self._next = self._pixels.tell() // self._record
        self._pixels.truncate(self._next * self._record)
        whole = {  # a power cut may have kept the journal and lost the pixels
            name: entry for name, entry in working.items() if all(each.slot < self._next for each in entry.pictures)
        }
        write_atomic(self._work / ITEMS, (self._heading("pixels.bin") + "".join(map(_line, whole.values()))).encode())
        self._journal = (self._work / ITEMS).open("a", encoding="ascii")
        self._known, self._unsynced = finished | whole, 0

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._sync()
        self._pixels.close()
        self._journal.close()

    def known(self, name: str, stamp: str) -> Entry | None:
        """Return what became of a file or series that has not changed since."""
        entry = self._known.get(name)
        return entry if entry is not None and entry.stamp == stamp else None

    def add(self, name: str, stamp: str, found: Found) -> Entry:
        """Write down what became of a file or series, pixels first."""
        pictures = []
        for picture in found.pictures:
            self._pixels.write(picture.pixels)
            pictures.append(Kept(self._next, picture.digest))
            self._next += 1
        self._pixels.flush()
        entry = Entry(name, stamp, found.facts, found.rule, found.left_out, found.rejected, tuple(pictures))
        self._journal.write(_line(entry))
        self._journal.flush()
        self._unsynced += 1
        if self._unsynced >= _SYNC_EVERY:
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
            kept = tuple(Kept(slot + number, picture.digest) for number, picture in enumerate(entry.pictures))
            slot += len(kept)
            placed.append(replace(entry, pictures=kept, done=True))
        write_atomic(self.folder / ITEMS, (self._heading(name) + "".join(map(_line, placed))).encode("ascii"))
        return name, placed

    def tidy(self, images: str) -> None:
        """Remove what the finished cache replaces."""
        shutil.rmtree(self._work, ignore_errors=True)
        for path in self.folder.glob("images-*.npy"):
            if path.name != images:
                path.unlink()

    def _read(self, path: Path, done: bool) -> tuple[Path | None, dict[str, Entry]]:
        """Read entries, and the file that their pixels are in; nothing where either is missing or not ours."""
        if not path.is_file():
            return None, {}
        lines = _lines(path)
        heading = next(lines, {})
        pixels = path.parent / str(heading.get("pixels"))
        if heading.get("meaning") != self._meaning or not (pixels.is_file() or not done):
            return None, {}
        entries = (_entry(line, done) for line in lines)
        return pixels, {entry.name: entry for entry in entries if entry is not None}

    def _heading(self, pixels: str) -> str:
        return json.dumps({"meaning": self._meaning, "pixels": pixels}) + "\n"

    def _write_images(self, target: Path, entries: Sequence[Entry], count: int) -> None:
        draft = target.with_name(f".{target.name}.draft")
        with draft.open("wb") as file, (self._work / "pixels.bin").open("rb") as fresh:
            header = {"descr": self._kind.str, "fortran_order": False, "shape": (count, *self._shape)}
            np.lib.format.write_array_header_1_0(file, header)
            if self._finished is None:
                self._copy(entries, file, fresh, fresh, 0)
            else:
                with self._finished.open("rb") as former:
                    np.lib.format.read_magic(former)
                    np.lib.format.read_array_header_1_0(former)
                    self._copy(entries, file, fresh, former, former.tell())
            file.flush()
            os.fsync(file.fileno())
        draft.replace(target)

    def _copy(self, entries: Sequence[Entry], target: BinaryIO, fresh: BinaryIO, former: BinaryIO, start: int) -> None:
        for entry in entries:
            origin, begin = (former, start) if entry.done else (fresh, 0)
            for picture in entry.pictures:
                origin.seek(begin + picture.slot * self._record)
                pixels = origin.read(self._record)
                if hashlib.blake2b(pixels, digest_size=16).hexdigest() != picture.digest:
                    raise DataError(
                        f"{self.folder}: the pixels of one image are not those that were written.",
                        "Check the disk; remove the folder and ingest again.",
                    )
                target.write(pixels)

    def _sync(self) -> None:
        for file in (self._pixels, self._journal):
            file.flush()
            os.fsync(file.fileno())
        self._unsynced = 0


def _line(entry: Entry) -> str:
    content = {name: getattr(entry, name) for name in ("name", "stamp", "rule", "left_out", "rejected")}
    content["facts"] = asdict(entry.facts) if entry.facts else None
    content["pictures"] = [[picture.slot, picture.digest] for picture in entry.pictures]
    return json.dumps(content) + "\n"


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield whole lines; the last one may have been cut off."""
    with path.open(encoding="ascii", errors="replace") as file:
        for line in file:
            try:
                content = json.loads(line)
            except ValueError:
                continue
            if isinstance(content, dict):
                yield content


def _entry(content: dict[str, Any], done: bool) -> Entry | None:
    try:
        facts = content["facts"]
        if facts:
            facts["spacing"] = None if facts["spacing"] is None else tuple(facts["spacing"])
        pictures = tuple(Kept(int(slot), str(digest)) for slot, digest in content["pictures"])
        words = (content["left_out"], content["rejected"], pictures, done)
        return Entry(content["name"], content["stamp"], Facts(**facts) if facts else None, content["rule"], *words)
    except (KeyError, TypeError, ValueError):
        return None
