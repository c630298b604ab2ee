"""Named arrays as the bytes of a safetensors file, and back as views of them, without a second copy.

The format is eight bytes of the header's length, a header in JSON, and the arrays back to back: those of larger types
first, then by name, as the library orders them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from fedhealth.types import State

LENGTH_BYTES = 8
_ABOUT = "__metadata__"  # texts by name
_DTYPES = {"BOOL": "|b1", "U8": "|u1", "I8": "|i1", "I16": "<i2", "U16": "<u2", "F16": "<f2", "I32": "<i4"}
_DTYPES |= {"U32": "<u4", "F32": "<f4", "I64": "<i8", "U64": "<u8", "F64": "<f8"}
_DTYPE_NAMES = {dtype: name for name, dtype in _DTYPES.items()}

Kinds = Mapping[str, tuple[tuple[int, ...], str]]


def build_header(kinds: Kinds, about: Mapping[str, str] | None = None) -> tuple[bytes, list[str]]:
    """Return the header of arrays, and the order in which they follow it.

    Args:
        kinds: by name, the shape of an array and its type as numpy's `dtype.str`.
        about: texts in the header; none by default.

    Raises:
        KeyError: an array has another type.

    """
    entries: dict[str, Any] = {_ABOUT: dict(about)} if about else {}
    order, start = sorted(kinds, key=lambda name: (-np.dtype(kinds[name][1]).itemsize, name)), 0
    for name in order:
        shape, dtype = kinds[name]
        end = start + math.prod(shape) * np.dtype(dtype).itemsize
        entries[name] = {"dtype": _DTYPE_NAMES[dtype], "shape": list(shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text, order


def describe_arrays(arrays: State) -> dict[str, tuple[tuple[int, ...], str]]:
    """Return the kinds of arrays, for `build_header`."""
    return {name: (array.shape, array.dtype.str) for name, array in arrays.items()}


def view_arrays(content: bytes | bytearray) -> tuple[State, dict[str, str]]:
    """Return the arrays in packed bytes, in the order of names, and the texts of the header.

    The arrays are views of the bytes: they can be written to if the bytes can.

    Raises:
        ValueError: the arrays do not fill the bytes exactly, or have another type.
        KeyError: likewise.
        TypeError: likewise.

    """
    start = LENGTH_BYTES + int.from_bytes(content[:LENGTH_BYTES], "little")
    entries: dict[str, Any] = json.loads(content[LENGTH_BYTES:start])
    about = entries.pop(_ABOUT, {})
    if not isinstance(about, dict) or not all(isinstance(text, str) for text in about.values()):
        raise ValueError(_ABOUT)
    found, at = {}, start
    for name, entry in sorted(entries.items(), key=lambda item: tuple(item[1]["data_offsets"])):
        kind, shape = np.dtype(_DTYPES[entry["dtype"]]), tuple(entry["shape"])
        if any(not isinstance(side, int) or side < 0 for side in shape):
            raise ValueError(name)
        end = at + math.prod(shape) * kind.itemsize
        if entry["data_offsets"] != [at - start, end - start]:
            raise ValueError(name)
        found[name] = np.ndarray(shape, kind, content, at)
        at = end
    if at != len(content):
        raise ValueError("size")
    return {name: found[name] for name in sorted(found)}, about


def find_packed_bytes(arrays: State) -> bytes | None:
    """Return the packed bytes of arrays that are views of exactly these bytes; None for any others."""
    owners: list[object] = [array.base for array in arrays.values()]  # numpy's stubs know only arrays as owners
    whole = owners[0] if owners else None
    if not isinstance(whole, bytes) or any(owner is not whole for owner in owners):
        return None
    header, order = build_header(describe_arrays(arrays))
    at = _get_address(np.frombuffer(whole, np.uint8)) + len(header)
    for name in order:
        array = arrays[name]
        if not array.flags.c_contiguous or _get_address(array) != at:
            return None
        at += array.nbytes
    size = len(header) + sum(array.nbytes for array in arrays.values())
    return whole if size == len(whole) and whole.startswith(header) else None


def _get_address(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])
