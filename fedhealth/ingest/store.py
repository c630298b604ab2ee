"""Store the results of an ingest on disk as they arrive, and build the image file from them.

A dataset's folder holds `images-DIGEST.npy` and `items.jsonl`, the records of all files with the places of their
images. The progress of a running ingest is in `work/`: a list of the same form, and files of pixels. An interrupted
ingest resumes from there. The slot of an image in the finished file depends on the file names only, so the same files
give the same bytes, regardless of the order of decoding.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from fedhealth.errors import DataError
from fedhealth.ingest.examine import ExamineResult
from fedhealth.ingest.pixel_layout import HEADER_BYTES, PixelReader, assign_slots, build_npy_header
from fedhealth.ingest.records import IngestRecord, StoredImage, format_record, parse_record, read_lines
from fedhealth.utils.atomic_io import write_atomic

ITEMS = "items.jsonl"
_FLUSH_EVERY, _SYNC_EVERY = 32, 256  # records; files whose records were not flushed before a crash are read again


class IngestStore:
    """The folder of a dataset during an ingest.

    Args:
        folder: of the dataset.
        names: of all files, which determine the order of images.
        shape: of one image: channels, rows, columns.
        kind: data type of the pixels.
        processing: all settings that affect the pixels, as text; records with other settings are discarded.

    Attributes:
        shared: the file to which workers write the first image of each file.
        slots: of these images, by file name.

    """

    def __init__(
        self, folder: Path, names: Iterable[str], shape: tuple[int, ...], kind: np.dtype[Any], processing: str
    ) -> None:
        self.folder, self._work, self._shape, self._kind = folder, folder / "work", shape, kind
        self._image_bytes = int(np.prod(shape)) * kind.itemsize
        self._processing = hashlib.sha256(processing.encode()).hexdigest()
        self.slots = {name: slot for slot, name in enumerate(sorted(names))}
        all_names = hashlib.sha256(json.dumps(list(self.slots)).encode()).hexdigest()
        self.shared = self._work / f"{all_names[:32]}.bin"
        self._finished, finished = self._read_records(folder / ITEMS)
        begun, working = self._read_records(self._work / ITEMS)
        if begun is None:
            shutil.rmtree(self._work, ignore_errors=True)
            self._work.mkdir(mode=0o700)
        self.shared.touch(mode=0o600)
        intact = self._select_intact(working)
        self._write_records(self._work / ITEMS, "", intact.values())
        self._journal = (self._work / ITEMS).open("a", encoding="ascii")
        self._known, self._added = finished | intact, 0
        self._thread, self._syncing = ThreadPoolExecutor(1, "sync"), Future[None]()
        self._syncing.set_result(None)

    def __enter__(self) -> IngestStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        with (
            suppress(OSError) if isinstance(fault, OSError) else nullcontext(),
            self._journal,
            self._thread,
        ):  # the first error is more informative
            self._flush()
            self._sync_in_background()
            self._syncing.result()

    def find_record(self, name: str, stamp: str) -> IngestRecord | None:
        """Return the record of a file or series if it has not changed since, else None."""
        record = self._known.get(name)
        return record if record is not None and record.stamp == stamp else None

    def add(self, name: str, stamp: str, found: ExamineResult) -> IngestRecord:
        """Store the result of a file or series whose pixels are in a file of `work`; return the record."""
        pictures = tuple(StoredImage(picture.file, picture.slot, picture.digest) for picture in found.pictures)
        lasting_stamp = stamp if found.is_final else ""
        record = IngestRecord(name, lasting_stamp, found.fields, found.rule, found.left_out, found.rejected, pictures)
        self._journal.write(format_record(record))
        self._added += 1
        if self._added % _FLUSH_EVERY == 0:
            self._flush()
        if self._added % _SYNC_EVERY == 0 and self._syncing.done():
            self._sync_in_background()
        self._known[name] = record
        return record

    def finish(self, records: Sequence[IngestRecord]) -> tuple[str, list[IngestRecord]]:
        """Write the image file and the list of records; return the file's name, and the records with final slots.

        Args:
            records: all records of the dataset, in an order that depends on their names only.

        Raises:
            DataError: pixels on disk differ from those that were written.

        """
        pictures = [picture for record in records for picture in record.pictures]
        named = [(record.name, number) for record in records for number in range(len(record.pictures))]
        slots = assign_slots(named, self.slots)
        final = [StoredImage("", slot, picture.digest) for slot, picture in zip(slots, pictures, strict=True)]
        digests = [picture.digest for picture in sorted(final, key=lambda picture: picture.slot)]
        whole = json.dumps([self._shape, self._kind.str, digests]).encode()
        name = f"images-{hashlib.sha256(whole).hexdigest()[:32]}.npy"
        if not (self.folder / name).is_file():
            self._write_images(self.folder / name, pictures, slots)
        left = iter(final)
        placed = [replace(record, pictures=tuple(islice(left, len(record.pictures)))) for record in records]
        self._write_records(self.folder / ITEMS, name, placed)
        return name, placed

    def remove_old_files(self, images: str) -> None:
        """Remove the work folder and all image files except `images`."""
        shutil.rmtree(self._work, ignore_errors=True)
        for path in self.folder.glob("images-*.npy"):
            if path.name != images:
                path.unlink()

    def _read_records(self, path: Path) -> tuple[Path | None, dict[str, IngestRecord]]:
        """Read records and the path of their image file; nothing if they were made with other settings."""
        if not path.is_file():
            return None, {}
        lines = read_lines(path)
        heading = next(lines, {})
        images = path.parent / str(heading.get("images"))
        if heading.get("meaning") != self._processing or not images.exists():
            return None, {}
        records = map(parse_record, lines)
        return images, {record.name: record for record in records if record is not None}

    def _write_records(self, path: Path, images: str, records: Iterable[IngestRecord]) -> None:
        heading = json.dumps({"meaning": self._processing, "images": images}) + "\n"
        write_atomic(path, (heading + "".join(map(format_record, records))).encode("ascii"))

    def _select_intact(self, working: Mapping[str, IngestRecord]) -> dict[str, IngestRecord]:
        """Return the records whose pixels are on disk: after a power cut some may be lost."""
        with PixelReader(self._work, None, self._image_bytes) as pixels:
            return {
                name: record
                for name, record in working.items()
                if all(each.file and pixels.read(each) is not None for each in record.pictures)
            }

    def _write_images(self, target: Path, pictures: Sequence[StoredImage], slots: Sequence[int]) -> None:
        """Turn the shared file into the image file; most images are already in their slots."""
        with self.shared.open("r+b") as images, PixelReader(self._work, self._finished, self._image_bytes) as pixels:
            for picture, slot in zip(pictures, slots, strict=True):
                if (picture.file, picture.slot) == (self.shared.name, slot):
                    continue
                content = pixels.read(picture)
                if content is None:
                    raise DataError(
                        f"{self.folder}: the pixels of an image differ from those that were written.",
                        "Check the disk; remove the folder and run the ingest again.",
                    )
                images.seek(HEADER_BYTES + slot * self._image_bytes)
                images.write(content)
            images.seek(0)
            images.write(build_npy_header(len(slots), self._shape, self._kind))
            images.truncate(HEADER_BYTES + len(slots) * self._image_bytes)
            images.flush()
            os.fsync(images.fileno())
        self.shared.replace(target)

    def _sync_in_background(self) -> None:
        """Begin to sync to disk what is written, while the workers go on; raise the error of the sync before."""
        self._syncing.result()
        self._syncing = self._thread.submit(self._sync)

    def _sync(self) -> None:
        """Sync the pixels, then the list of records that refers to them; a resumed ingest checks them by digest."""
        for path in self._work.glob("*.bin"):
            with suppress(FileNotFoundError), path.open("rb") as file:  # it may be finished meanwhile
                os.fsync(file.fileno())
        os.fsync(self._journal.fileno())

    def _flush(self) -> None:
        try:
            self._journal.flush()
        except OSError as fault:
            fault.filename = str(self._work / ITEMS)
            raise
