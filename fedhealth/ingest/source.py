"""Where a hospital's images come from. A source is one class, named by `_target_` in the hospital's file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

from fedhealth.data.dicom import MAX_BYTES
from fedhealth.data.imagefault import ImageError
from fedhealth.errors import DataError

NOT_IMAGES = ("DICOMDIR", ".*", "Thumbs.db", "desktop.ini", "*.csv", "*.parquet", "*.tsv", "*.txt", "*.yaml", "*.md")


class Item(NamedTuple):
    """One image file, or what stands for one.

    Attributes:
        name: unique within the source and stable.
        stamp: what changes when its content does.

    """

    name: str
    stamp: str


class Source(Protocol):
    """A place of images; sent to worker processes, so it holds plain values only."""

    def items(self) -> Iterator[Item]:
        """Yield what there is, in an order that does not change.

        Raises:
            DataError: the place cannot be reached.

        """

    def open(self, item: Item) -> BinaryIO:
        """Return an item's content as an open file.

        Raises:
            ImageError: it cannot be read.

        """


@dataclass(frozen=True)
class Folder:
    """Files below a folder, whatever they are called; size and time stamp tell a changed one.

    Args:
        root: the folder.
        exclude: names that are not looked at; `*` stands for anything.

    """

    root: str
    exclude: tuple[str, ...] = NOT_IMAGES

    def items(self) -> Iterator[Item]:
        """Yield every file, sorted by folder and name."""
        root = Path(self.root).expanduser()
        if not root.is_dir():
            raise DataError(f"{root}: there is no such folder.", "Correct source.root.")
        for folder, folders, files in os.walk(root):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(files):
                if not any(fnmatch(name, pattern) for pattern in self.exclude):
                    yield _item(Path(folder, name), root)

    def open(self, item: Item) -> BinaryIO:
        """Open a file."""
        try:
            file = (Path(self.root).expanduser() / item.name).open("rb")
            size = os.fstat(file.fileno()).st_size
        except OSError as fault:
            raise ImageError(fault.strerror or "the file cannot be read", "Check its permissions.") from None
        if 0 < size <= MAX_BYTES:
            return file
        file.close()
        if size:
            raise ImageError("the file is larger than 1 GiB", "Export a smaller rendition.")
        raise ImageError("the file is empty", "Export or copy the file again.")


def _item(path: Path, root: Path) -> Item:
    try:
        status = path.stat()
        stamp = f"{status.st_size}|{status.st_mtime_ns}"
    except OSError:
        stamp = "unreadable"
    return Item(path.relative_to(root).as_posix(), stamp)
