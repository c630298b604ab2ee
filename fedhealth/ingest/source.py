"""Where a hospital's images come from. A source is a class that the ingest settings name as `_target_`."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import translate
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

from fedhealth.data.image.dicom import MAX_BYTES
from fedhealth.data.image.errors import ImageError
from fedhealth.errors import DataError
from fedhealth.utils.user_path import expand_user

NOT_IMAGES = ("DICOMDIR", ".*", "Thumbs.db", "desktop.ini", "*.csv", "*.parquet", "*.tsv", "*.txt", "*.yaml", "*.md")


class SourceFile(NamedTuple):
    """One image file, or an equivalent object of another source.

    Attributes:
        name: unique within the source, and stable.
        stamp: changes when the content changes.
        patient: code of its patient's plainest identifier, if the source knows it without reading the file.

    """

    name: str
    stamp: str
    patient: str = ""


class IngestSource(Protocol):
    """A source of image files: the one place where another archive plugs in.

    It is sent to worker processes, so it may contain plain values only.
    """

    def contains_folder(self, folder: Path) -> bool:
        """Return whether a folder of this machine is in the source, so that its files would be read."""

    def items(self) -> Iterator[SourceFile]:
        """Yield all files in a stable order.

        Raises:
            DataError: the source cannot be reached.

        """

    def open(self, item: SourceFile) -> BinaryIO:
        """Open a file's content for reading.

        Raises:
            ImageError: it cannot be read.

        """


@dataclass(frozen=True)
class Folder:
    """All files below a folder, with any name; a changed file is detected by its size and modification time.

    Args:
        root: the folder.
        exclude: names to ignore; `*` matches anything.

    """

    root: str
    exclude: tuple[str, ...] = NOT_IMAGES

    def contains_folder(self, folder: Path) -> bool:
        """Return whether a folder is the root or below it."""
        return folder.resolve().is_relative_to(expand_user(self.root).resolve())

    def items(self) -> Iterator[SourceFile]:
        """Yield every file, sorted by folder and name; links are followed, but each folder is read once."""
        root = expand_user(self.root)
        if not root.is_dir():
            raise DataError(f"{root}: the folder does not exist.", "Correct source.root.")
        start = (
            len(root.as_posix().rstrip("/")) + 1
        )  # where relative names start; `Path.relative_to` is slow for many files
        skipped = re.compile("|".join(map(translate, self.exclude)) or r"(?!)").match
        entered, closed = [root.resolve()], list[OSError]()
        for folder, folders, files in os.walk(root, followlinks=True, onerror=closed.append):
            seen = sorted(name for name in folders if not name.startswith("."))
            folders[:] = [name for name in seen if _is_new(Path(folder, name), entered)]
            yield from (_make_source_file(Path(folder, name), start) for name in sorted(files) if not skipped(name))
        for fault in closed:  # reported like an unreadable file, because its content is missing
            yield SourceFile(str(fault.filename)[start:] or ".", "unreadable")

    def open(self, item: SourceFile) -> BinaryIO:
        """Open a file."""
        path = expand_user(self.root) / item.name
        try:
            status = path.stat()
            why = _explain_unreadable(status.st_mode, status.st_size)
            if why is None:
                return path.open("rb")
        except OSError as fault:
            raise ImageError(fault.strerror or "the file cannot be read", "Check its permissions.") from None
        raise ImageError(*why)


def _explain_unreadable(mode: int, size: int) -> tuple[str, str] | None:
    """Return why a path cannot be read as a file, and the advice; None if it can. Reading a pipe would block."""
    if stat.S_ISDIR(mode):
        return "a folder that cannot be opened", "Check its permissions."
    if not stat.S_ISREG(mode):
        return "not a file but a pipe, socket or device", "Remove it from the folder."
    if size > MAX_BYTES:
        return "the file is larger than 1 GiB", "Export a smaller rendition."
    return None if size else ("the file is empty", "Export or copy the file again.")


def _is_new(folder: Path, entered: list[Path]) -> bool:
    """Return False for a link to a folder that is read anyway, or that contains the root (`entered[0]`)."""
    if not folder.is_symlink():
        return True
    real = folder.resolve()
    if real in entered[0].parents or not {real, *real.parents}.isdisjoint(entered):
        return False
    entered.append(real)
    return True


def _make_source_file(path: Path, start: int) -> SourceFile:
    try:
        status = path.stat()
        stamp = f"{status.st_size}|{status.st_mtime_ns}"
    except OSError:
        stamp = "unreadable"
    return SourceFile(str(path)[start:], stamp)
