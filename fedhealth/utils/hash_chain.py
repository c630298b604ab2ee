"""A file that only grows: JSON lines, each with the hash of all before it, on the disk before `append` returns.

A small head file beside it holds the last line's number and hash, so that a cut end shows. A crash in the middle of a
write leaves a torn last line that no `append` ever returned for; it is removed at the next one.

The chain shows accidents and edits; whoever may write both files can forge both. The last hash is a digest of the whole
history: kept in another place, it shows that too.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedhealth.utils.atomic_io import sync_folder

START = "0" * 64
_LAST = 1 << 16  # bytes at the end among which the last line is looked for


class BrokenChainError(Exception):
    """The file was edited, cut or damaged; says how. Callers turn it into an error with advice."""


@dataclass(frozen=True)
class Tail:
    """Where a chain ends: its last line's number and hash, and the length in bytes up to which it is whole."""

    number: int
    digest: str
    size: int


def begin(path: Path) -> None:
    """Make the files of a new chain: the head first, so that a chain is never without."""
    if not path.exists() and (not head_path(path).exists() or _read_head(path)[0] == 0):
        _write_head(path, 0, START)
        with path.open("xb") as file:
            os.fsync(file.fileno())
        sync_folder(path.parent)


def recover(path: Path) -> tuple[list[dict[str, Any]], Tail]:
    """Read and check the whole chain; return its entries and its end.

    Raises:
        BrokenChainError: it was edited, cut or damaged.

    """
    if not path.exists():
        raise BrokenChainError("the file is gone, its head is not")
    expected, head = _read_head(path)
    entries: list[dict[str, Any]] = []
    digest, size, passed_head = START, 0, expected == 0
    for line in path.read_bytes().splitlines(keepends=True):
        if not line.endswith(b"\n"):
            break  # torn by a crash; if it was ever counted, the head below tells
        entry, digest = _parse(line, digest)
        entries.append(entry)
        size += len(line)
        if entry.get("number") != len(entries):
            raise BrokenChainError(f"entry {len(entries)} is numbered {entry.get('number')}")
        if len(entries) == expected:
            passed_head = True
            if digest != head:
                raise BrokenChainError(f"entry {expected} is not the one the head file names")
    if not passed_head:
        raise BrokenChainError(f"{expected} entries were written, {len(entries)} are left")
    if len(entries) > expected + 1:
        raise BrokenChainError(f"{len(entries)} entries, but the head file knows {expected}")
    return entries, Tail(len(entries), digest, size)


def tail(path: Path) -> Tail:
    """Return the end without reading all of it: the last line must be the one that the head names.

    Raises:
        BrokenChainError: it is not, and the whole chain is not sound either.

    """
    number, digest = _read_head(path)
    size = path.stat().st_size if path.exists() else -1
    if size == 0 and number == 0:
        return Tail(0, START, 0)
    if size > 0:
        with path.open("rb") as file:
            file.seek(max(0, size - _LAST))
            if file.read().endswith(f'"hash":"{digest}"}}\n'.encode()):
                return Tail(number, digest, size)
    return recover(path)[1]


def append(path: Path, end: Tail, body: Mapping[str, Any]) -> Tail:
    """Write one entry after `end`, durably, and return the new end; the caller holds a lock."""
    line, digest = _line(body, end.digest)
    with path.open("r+b") as file:
        file.truncate(end.size)
        file.seek(end.size)
        file.write(line)
        file.flush()
        os.fsync(file.fileno())
    _write_head(path, end.number + 1, digest)
    return Tail(end.number + 1, digest, end.size + len(line))


def repair(path: Path, end: Tail) -> None:
    """Remove a torn line after `end` and let the head name it."""
    with path.open("r+b") as file:
        file.truncate(end.size)
        os.fsync(file.fileno())
    _write_head(path, end.number, end.digest)


def head_path(path: Path) -> Path:
    """Return where the head of a chain lies."""
    return path.with_suffix(".head")


def _line(body: Mapping[str, Any], previous: str) -> tuple[bytes, str]:
    written = json.dumps(body, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(f"{previous}{written}".encode()).hexdigest()
    return f'{{"entry":{written},"hash":"{digest}"}}\n'.encode(), digest


def _parse(line: bytes, previous: str) -> tuple[dict[str, Any], str]:
    try:
        entry: dict[str, Any] = dict(json.loads(line)["entry"])
    except (ValueError, TypeError, KeyError) as error:
        raise BrokenChainError("a line cannot be read") from error
    expected, digest = _line(entry, previous)
    if expected != line:
        raise BrokenChainError(f"entry {entry.get('number')} does not follow from the one before")
    return entry, digest


def _read_head(path: Path) -> tuple[int, str]:
    try:
        number, digest = head_path(path).read_text().split()
        return int(number), digest
    except (OSError, ValueError) as error:
        raise BrokenChainError("its head file is missing or unreadable") from error


def _write_head(path: Path, number: int, digest: str) -> None:
    temporary = path.with_suffix(".head.new")
    with temporary.open("w") as file:
        file.write(f"{number} {digest}\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(head_path(path))
    sync_folder(path.parent)
