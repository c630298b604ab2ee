"""Where a hospital's images come from. A source is one class, named by `_target_` in the hospital's file."""

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
from fedhealth.data.image.error import ImageError
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
        """Yield every file, sorted by folder and name; links are followed, into each folder once."""
        root = Path(self.root).expanduser()
        if not root.is_dir():
            raise DataError(f"{root}: there is no such folder.", "Correct source.root.")
        start = len(root.as_posix().rstrip("/")) + 1  # of names: `Path.relative_to` takes long for so many
        skipped = re.compile("|".join(map(translate, self.exclude)) or r"(?!)").match
        entered, closed = [root.resolve()], list[OSError]()
        for folder, folders, files in os.walk(root, followlinks=True, onerror=closed.append):
            seen = sorted(name for name in folders if not name.startswith("."))
            folders[:] = [name for name in seen if _is_new(Path(folder, name), entered)]
            yield from (_item(Path(folder, name), start) for name in sorted(files) if not skipped(name))
        for fault in closed:  # set aside like a file: what is in it is missing
            yield Item(str(fault.filename)[start:] or ".", "unreadable")

    def open(self, item: Item) -> BinaryIO:
        """Open a file."""
        path = Path(self.root).expanduser() / item.name
        try:
            status = path.stat()
            why = _unfit(status.st_mode, status.st_size)
            if why is None:
                return path.open("rb")
        except OSError as fault:
            raise ImageError(fault.strerror or "the file cannot be read", "Check its permissions.") from None
        raise ImageError(*why)


def _unfit(mode: int, size: int) -> tuple[str, str] | None:
    """Return why something cannot be read as a file, and what to do about it; a pipe would keep us waiting."""
    if stat.S_ISDIR(mode):
        return "a folder that cannot be opened", "Check its permissions."
    if not stat.S_ISREG(mode):
        return "no file but a pipe, socket or device", "Take it out of the folder."
    if size > MAX_BYTES:
        return "the file is larger than 1 GiB", "Export a smaller rendition."
    return None if size else ("the file is empty", "Export or copy the file again.")


def _is_new(folder: Path, entered: list[Path]) -> bool:
    """Tell whether a folder is no link into what is read anyway, nor around the root, the first of those entered."""
    if not folder.is_symlink():
        return True
    real = folder.resolve()
    if real in entered[0].parents or not {real, *real.parents}.isdisjoint(entered):
        return False
    entered.append(real)
    return True


def _item(path: Path, start: int) -> Item:
    try:
        status = path.stat()
        stamp = f"{status.st_size}|{status.st_mtime_ns}"
    except OSError:
        stamp = "unreadable"
    return Item(str(path)[start:], stamp)
