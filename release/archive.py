"""Checksums, and one archive whose bytes depend on its content alone."""

from __future__ import annotations

import gzip
import hashlib
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

CHECKSUMS = "SHA256SUMS"


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def list_files(folder: Path) -> Iterator[Path]:
    """Yield every file below a folder, in a fixed order."""
    yield from sorted(path for path in folder.rglob("*") if path.is_file())


def write_checksums(folder: Path) -> None:
    """Write SHA256SUMS for every file below `folder`, as `sha256sum --check` reads it."""
    lines = [f"{hash_file(path)}  {path.relative_to(folder).as_posix()}\n" for path in list_files(folder)]
    (folder / CHECKSUMS).write_text("".join(lines), "utf-8")


def write_archive(folder: Path, target: Path, epoch: int) -> None:
    """Pack `folder` into a .tar.gz: sorted, without owners, with the commit's time for every file."""
    with ExitStack() as stack:
        raw = stack.enter_context(target.open("wb"))
        packed = stack.enter_context(gzip.GzipFile("", "wb", 9, raw, mtime=0))
        archive = stack.enter_context(tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT))
        for path in list_files(folder):
            entry = tarfile.TarInfo(f"{folder.name}/{path.relative_to(folder).as_posix()}")
            entry.size, entry.mtime = path.stat().st_size, epoch
            entry.mode = 0o755 if path.suffix == ".sh" else 0o644
            with path.open("rb") as file:
                archive.addfile(entry, file)
