"""An append-only file of JSON lines; each line holds the hash of all lines before it and is synced before it counts.

A small head file beside it holds the last line's number and hash, so that a truncated end is detected. A crash during
a write leaves a torn last line, for which `append_entry` never returned; the next `append_entry` removes it.

The chain detects accidents and edits; anyone who can write both files can forge both. The last hash is a digest of the
whole history: stored in another place, it detects forgery too.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedhealth.utils.atomic_io import fsync_folder, sync_file, write_atomic
from fedhealth.utils.digest import digest_parts
from fedhealth.utils.plain_files import read_plain_file

Entry = Mapping[str, Any]

START = "0" * 64
_LAST = 1 << 16  # bytes at the end in which the last line is searched


class BrokenChainError(Exception):
    """The file was edited, truncated or damaged; the message tells how. Callers convert it to an error with advice."""


@dataclass(frozen=True)
class ChainTail:
    """The end of a chain: number and hash of its last line, and the length in bytes up to which it is complete."""

    number: int
    digest: str
    size: int


@dataclass(frozen=True)
class _VerifiedLines:
    """The complete lines of a chain, verified: their bytes, entries and hashes."""

    content: bytes
    entries: tuple[Entry, ...]
    digests: tuple[str, ...]


_MOST_VERIFIED = 32  # chains whose lines a process keeps
_verified: dict[Path, _VerifiedLines] = {}


def create_chain(path: Path) -> None:
    """Create the files of a new chain: the head first, so that a chain never lacks it."""
    if not path.exists() and (not get_head_path(path).exists() or _read_head(path)[0] == 0):
        _write_head(path, 0, START)
        with path.open("xb") as file:
            sync_file(file)
        fsync_folder(path.parent)


def load_chain(path: Path) -> tuple[list[Entry], ChainTail]:
    """Read and verify the whole chain; return its entries and its end.

    An entry that this process has verified before is the same object, to be recognised by those who parse it.

    Raises:
        BrokenChainError: it was edited, truncated or damaged.

    """
    if not path.exists():
        raise BrokenChainError("the file is gone, but its head file exists")
    expected, head = _read_head(path)
    found = _verify_lines(path, _read_chain(path))
    entries, count = list(found.entries), len(found.entries)
    if count < expected:
        raise BrokenChainError(f"{expected} entries were written, {count} are left")
    if expected and found.digests[expected - 1] != head:
        raise BrokenChainError(f"entry {expected} is not the one the head file names")
    if count > expected + 1:
        raise BrokenChainError(f"{count} entries, but the head file knows {expected}")
    return entries, ChainTail(count, found.digests[-1] if count else START, len(found.content))


def _verify_lines(path: Path, content: bytes) -> _VerifiedLines:
    """Return the complete lines; those that this process has verified before are only compared with its copy."""
    known = _verified.get(path)
    if known is None or not content.startswith(known.content):
        known = _VerifiedLines(b"", (), ())
    entries, digests, size = list(known.entries), list(known.digests), len(known.content)
    for line in content[size:].splitlines(keepends=True):
        if not line.endswith(b"\n"):
            break  # torn by a crash; if it ever counted, the check of the head fails
        entry, digest = _parse_entry(line, digests[-1] if digests else START)
        entries.append(entry)
        digests.append(digest)
        size += len(line)
        if entry.get("number") != len(entries):
            raise BrokenChainError(f"entry {len(entries)} is numbered {entry.get('number')}")
    found = _VerifiedLines(content[:size], tuple(entries), tuple(digests))
    _verified[path] = found
    if len(_verified) > _MOST_VERIFIED:
        del _verified[next(iter(_verified))]
    return found


def read_tail(path: Path) -> ChainTail:
    """Return the end without reading the whole file: the last line must be the one that the head names.

    Raises:
        BrokenChainError: it is not, and the whole chain is not valid either.

    """
    number, digest = _read_head(path)
    size = path.stat().st_size if path.exists() else -1
    if size == 0 and number == 0:
        return ChainTail(0, START, 0)
    if size > 0:
        with path.open("rb") as file:
            file.seek(max(0, size - _LAST))
            if file.read().endswith(f'"hash":"{digest}"}}\n'.encode()):
                return ChainTail(number, digest, size)
    return load_chain(path)[1]


def append_entry(path: Path, end: ChainTail, body: Mapping[str, Any]) -> ChainTail:
    """Append one entry after `end` durably and return the new end; the caller holds a lock."""
    line, digest = _encode_entry(body, end.digest)
    with path.open("r+b") as file:
        file.truncate(end.size)
        file.seek(end.size)
        file.write(line)
        file.flush()
        sync_file(file)
    _write_head(path, end.number + 1, digest)
    return ChainTail(end.number + 1, digest, end.size + len(line))


def truncate_torn_entry(path: Path, end: ChainTail) -> None:
    """Remove a torn line after `end` and make the head name `end`, where that is not so already."""
    if path.stat().st_size == end.size and _read_head(path) == (end.number, end.digest):
        return
    with path.open("r+b") as file:
        file.truncate(end.size)
        sync_file(file)
    _write_head(path, end.number, end.digest)


def read_hashes(path: Path) -> list[str]:
    """Return the hash of every complete line, in order, without verifying the chain; none if there is no file.

    A torn last line is no entry: the next append removes it.
    """
    lines = read_plain_file(path).split(b"\n")[:-1] if path.exists() else []
    return [line[-2 - len(START) : -2].decode("ascii", "replace") for line in lines]


def read_sound_hashes(path: Path) -> list[str]:
    """Return the hash of every line that is sound from the start, those that `salvage_chain` keeps."""
    return [digest for _, digest in _iterate_sound_lines(read_plain_file(path))] if path.exists() else []


def salvage_chain(path: Path) -> Path | None:
    """Repair a broken chain: keep the lines from the start that are sound, and a copy of the file as it was found.

    Returns:
        the copy; None if the chain was intact or there is none.

    """
    if not path.exists() and not get_head_path(path).exists():
        return None
    try:
        load_chain(path)
    except BrokenChainError:
        return _keep_sound_lines(path)
    return None


def _keep_sound_lines(path: Path) -> Path:
    content = read_plain_file(path) if path.exists() else b""
    copies = (path.with_name(f"{path.name}.damaged-{number}") for number in itertools.count(1))
    copy = next(each for each in copies if not each.exists())
    write_atomic(copy, content, 0o600)
    sound = list(_iterate_sound_lines(content))
    write_atomic(path, content[: sum(len(line) for line, _ in sound)], 0o600)
    _write_head(path, len(sound), sound[-1][1] if sound else START)
    return copy


def _iterate_sound_lines(content: bytes) -> Iterator[tuple[bytes, str]]:
    """Yield each line and its hash, from the start up to the first one that does not follow from those before."""
    digest = START
    for number, line in enumerate(content.splitlines(keepends=True), start=1):
        try:
            entry, digest = _parse_entry(line, digest)
        except BrokenChainError:
            return
        if entry.get("number") != number:
            return
        yield line, digest


def get_head_path(path: Path) -> Path:
    """Return the path of a chain's head file."""
    return path.with_suffix(".head")


def _encode_entry(body: Mapping[str, Any], previous: str) -> tuple[bytes, str]:
    written = json.dumps(body, sort_keys=True, separators=(",", ":"))
    digest = digest_parts(b"fedhealth hash chain 2", previous.encode(), written.encode()).hex()
    return f'{{"entry":{written},"hash":"{digest}"}}\n'.encode(), digest


def _parse_entry(line: bytes, previous: str) -> tuple[Entry, str]:
    try:
        entry: Entry = dict(json.loads(line)["entry"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise BrokenChainError("a line cannot be read") from error
    expected, digest = _encode_entry(entry, previous)
    if expected != line:
        raise BrokenChainError(f"entry {entry.get('number')} does not follow from the one before")
    return entry, digest


def _read_chain(path: Path) -> bytes:
    try:
        return read_plain_file(path)
    except OSError as error:
        raise BrokenChainError(f"it cannot be read ({error.strerror})") from error


def _read_head(path: Path) -> tuple[int, str]:
    try:
        number, digest = read_plain_file(get_head_path(path)).decode().split()
        return int(number), digest
    except (OSError, ValueError) as error:
        raise BrokenChainError("its head file is missing or unreadable") from error


def _write_head(path: Path, number: int, digest: str) -> None:
    write_atomic(get_head_path(path), f"{number} {digest}\n".encode(), single_writer=True)
