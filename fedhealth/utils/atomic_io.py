"""Write a file whole or not at all: the only place that replaces files atomically."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, cast

from fedhealth.utils.plain_files import is_plain_file, read_plain_file

_HERE, _EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE, see rename(2)

_syncs: ContextVar[bool] = ContextVar("syncs", default=True)


@contextmanager
def unsynced_files() -> Iterator[None]:
    """Sync nothing in this block: what it writes survives a crash of the process, but not a power cut.

    A virtual site's files need no more: they belong to one run of one owner (docs/decisions/secure-aggregation.md).
    """
    token = _syncs.set(False)
    try:
        yield
    finally:
        _syncs.reset(token)


def sync_file(file: BinaryIO) -> None:
    """Bring a file's content to the disk, so that it survives a power cut."""
    if _syncs.get():
        os.fsync(file.fileno())


@contextmanager
def atomic_writer(
    path: Path,
    mode: int | None = None,
    *,
    durable: bool = True,
    single_writer: bool = False,
    replace: bool = True,
) -> Iterator[BinaryIO]:
    """Open a draft beside `path` that replaces it when the block ends; a fault removes the draft and keeps `path`.

    Args:
        path: of the file to write.
        mode: its permission bits, set before anything is written; None for those of the umask.
        durable: sync the file and its folder before returning; else it survives a crash of the process only.
        single_writer: the caller excludes other writers of `path`. The draft then has a fixed name, so that one left
            by a crash is overwritten.
        replace: whether an existing file may be replaced.

    Raises:
        FileExistsError: `path` exists and may not be replaced; it is as it was.
        OSError: naming `path`.

    """
    writer = "" if single_writer else f".{os.getpid()}.{threading.get_ident()}"
    folder, name = os.path.split(path)
    draft = os.path.join(folder, f".{name}{writer}.draft")  # noqa: PTH118 - as a text: it is much of a small write
    try:
        with _create_file(draft, mode) as file:
            yield file
            file.flush()
            if durable:
                sync_file(file)
        if replace:
            _replace_file(draft, path)
        else:
            os.link(draft, path)  # fails if `path` exists, also if another process has just created it
            os.unlink(draft)  # noqa: PTH108
        if durable:
            fsync_folder(path.parent)
    except BaseException as fault:
        if isinstance(fault, OSError) and fault.errno is not None:
            fault.filename = str(path)
        with suppress(OSError):
            os.unlink(draft)  # noqa: PTH108
        raise


def write_atomic(
    path: Path,
    content: bytes | memoryview,
    mode: int | None = None,
    *,
    durable: bool = True,
    single_writer: bool = False,
) -> None:
    """Write a file so that a reader (or a crash) sees the old content or the new, never a part; see `atomic_writer`.

    Raises:
        OSError: naming `path`, which is as it was; the draft is removed.

    """
    with atomic_writer(path, mode, durable=durable, single_writer=single_writer) as file:
        file.write(content)


def rewrite_file(path: Path, parts: Iterable[bytes | memoryview], mode: int) -> None:
    """Write a large file where its old content lies, which is lost first: a crash leaves the new content or no file.

    The caller excludes other writers. A file that is as large as the old one gets no new pages, which in a file system
    in memory cost more than the copy.

    Raises:
        OSError: naming `path`, which is removed.

    """
    draft = path.with_name(f".{path.name}.draft")  # the one of `atomic_writer`
    try:
        with suppress(FileNotFoundError):
            path.replace(draft)
            fsync_folder(path.parent)  # else after a power cut the old name could hold parts of both
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
        with os.fdopen(handle, "wb") as file:
            os.fchmod(handle, mode)
            file.writelines(parts)
            file.truncate()
            sync_file(file)
        draft.replace(path)
        fsync_folder(path.parent)
    except BaseException as fault:
        if isinstance(fault, OSError) and fault.errno is not None:
            fault.filename = str(path)
        draft.unlink(missing_ok=True)
        raise


def create_once(path: Path, make_content: Callable[[], bytes], mode: int | None = None) -> None:
    """Create a file unless it exists; of several processes that try at once the first one wins, and the others keep it.

    Raises:
        OSError: naming `path`.

    """
    if path.exists():
        return
    content = make_content()
    with suppress(FileExistsError), atomic_writer(path, mode, replace=False) as file:
        file.write(content)


def write_json(path: Path, content: object, *, durable: bool = True) -> None:
    """Write `content` as readable JSON, atomically."""
    write_atomic(path, encode_json(content), durable=durable)


def encode_json(content: object) -> bytes:
    """Return `content` as readable JSON, as `write_json` writes it."""
    return json.dumps(content, indent=1, sort_keys=False, default=_to_builtin).encode()


def read_json(path: Path) -> Any:
    """Read JSON; None where the file does not exist."""
    return json.loads(read_plain_file(path).decode()) if is_plain_file(path) else None


def fsync_folder(folder: Path) -> None:
    """Bring a folder's list of names to the disk, so that a rename or a removal in it survives a power cut."""
    if not _syncs.get():
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _replace_file(draft: str, path: Path) -> None:
    """Put a draft in the place of a file, which may not exist.

    Where nothing is synced the two change places, which is as atomic: ext4 writes a file to the disk at once when it is
    renamed over another, a millisecond or two, in case its writer forgot to sync it.
    """
    if _syncs.get() or not _exchange_files(draft, path):
        os.replace(draft, path)  # noqa: PTH105
    else:
        os.unlink(draft)  # noqa: PTH108


def _exchange_files(one: str, other: Path) -> bool:
    """Exchange two files atomically; return False where one of them, or the system call, does not exist."""
    renameat2 = None if other.is_dir() else _find_renameat2()
    return renameat2 is not None and renameat2(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0


@cache
def _find_renameat2() -> Callable[[int, bytes, int, bytes, int], int] | None:
    """Return Linux's system call; None elsewhere."""
    import ctypes  # only a run on one machine exchanges files

    try:
        return cast("Callable[[int, bytes, int, bytes, int], int]", ctypes.CDLL(None).renameat2)
    except (AttributeError, OSError, TypeError):
        return None


def _create_file(path: str, mode: int | None) -> BinaryIO:
    """Create a file; one that a crash left is removed first, as it may have another owner or mode."""
    try:
        handle = _open_new(path, mode)
    except FileExistsError:
        os.unlink(path)  # noqa: PTH108
        handle = _open_new(path, mode)
    if mode is not None:
        os.fchmod(handle, mode)
    return os.fdopen(handle, "wb")


def _open_new(path: str, mode: int | None) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666 if mode is None else mode)


def _to_builtin(value: object) -> object:
    """Return numbers and arrays of numpy as Python's own, anything else as text."""
    tolist = getattr(value, "tolist", None)
    return tolist() if tolist else str(value)
