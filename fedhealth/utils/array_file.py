"""Safetensors files of named arrays, written and read without a second copy of the arrays in memory.

The library's `save` returns the whole file as bytes, and its readers copy each array out of a mapped file, whose pages
count beside the copies.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedhealth.utils.atomic_io import atomic_writer
from fedhealth.utils.digest import encode_canonical
from fedhealth.utils.packed_bytes import build_header, describe_arrays, view_arrays
from fedhealth.utils.plain_files import open_plain_file

if TYPE_CHECKING:
    from fedhealth.types import State


_DIGEST = "about_sha256"  # of the other texts: a digit that flipped in a round's number would be believed


class ArrayFileError(ValueError):
    """A file does not hold arrays."""


def write_array_file(
    path: Path, arrays: State, about: Mapping[str, str] | None = None, *, durable: bool = True
) -> None:
    """Write named arrays to a file, whole or not at all.

    Args:
        path: of the file.
        arrays: by name, of any shapes.
        about: texts for the header, which then holds their digest, too.
        durable: see `fedhealth.utils.atomic_io.atomic_writer`.

    Raises:
        OSError: naming `path`, which is as it was.

    """
    texts = {**about, _DIGEST: _digest_texts(about)} if about else None
    header, order = build_header(describe_arrays(arrays), texts)
    with atomic_writer(path, durable=durable) as file:
        file.write(header)
        for name in order:
            file.write(np.ascontiguousarray(arrays[name]).data)


def read_array_file(path: Path) -> tuple[State, dict[str, str]]:
    """Return the arrays of a file, which can be written to, and the texts of its header, whose digest is checked.

    Raises:
        OSError: it cannot be read.
        ArrayFileError: it is damaged, or no such file.

    """
    with open_plain_file(path) as file:
        content = bytearray(os.fstat(file.fileno()).st_size)
        size = file.readinto(content)  # type: ignore[attr-defined]
    try:
        arrays, about = view_arrays(content if size == len(content) else content[:size])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as fault:
        raise ArrayFileError(f"{path} holds no arrays that can be read ({fault})") from fault
    if about.pop(_DIGEST, None) not in (None, _digest_texts(about)):  # files of older releases have none
        raise ArrayFileError(f"{path}: the digest of its texts does not match")
    return arrays, about


def _digest_texts(about: Mapping[str, str]) -> str:
    return sha256(encode_canonical(dict(about))).hexdigest()
