"""Named arrays as Flower records: packed into one safetensors file on the wire, one by one at Flower's interfaces.

Flower sends every array as three objects with one request each. A packed record needs three requests for any model, and
a small one, which travels as a record of bytes, a single request. The packed form is canonical
(`build_packed_header`), so that the site's egress gate can verify that it contains nothing else. What is read from a
message are views of its bytes; they, and what is computed in place (`make_packed_arrays`), are packed without a copy.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from io import BytesIO
from typing import TYPE_CHECKING, cast

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from fedhealth.errors import FederationError
from fedhealth.protocol.messages import SAME_RELEASE
from fedhealth.utils.packed_bytes import build_header, describe_arrays, find_packed_bytes, view_arrays

if TYPE_CHECKING:  # torch takes seconds, and commands that only read names have no use for it
    from fedhealth.types import State

PACKED = "packed"  # the only key of a packed record
SERIAL = "safetensors"  # the format of its content
SMALL = 2**20  # bytes up to which packed arrays are one object; Flower cuts larger ones into pieces
_NUMERIC_KINDS = "biuf"  # of numpy

Packed = ArrayRecord | ConfigRecord


class PackedArrays(dict[str, np.ndarray]):
    """Named arrays that lie back to back in one buffer, after their header: they are packed without a copy."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], dtype: str) -> None:
        header, kind = build_packed_header(shapes, dtype), np.dtype(dtype)
        self._file = BytesIO(bytes(len(header) + kind.itemsize * sum(map(math.prod, shapes.values()))))
        buffer, at = self._file.getbuffer(), len(header)
        buffer[:at] = header
        super().__init__()
        for name in sorted(shapes):
            self[name] = np.ndarray(shapes[name], kind, buffer, at)
            at += self[name].nbytes

    def finish(self) -> bytes:
        """Return the packed bytes, which are the buffer itself; from now on the arrays can only be read."""
        for array in self.values():
            array.flags.writeable = False
        return self._file.getvalue()


def make_packed_arrays(shapes: Mapping[str, tuple[int, ...]], dtype: str) -> PackedArrays:
    """Return zeros of these shapes, to be computed in place."""
    return PackedArrays(shapes, dtype)


def pack_arrays(arrays: State) -> Packed:
    """Return named arrays of one type as one record: of bytes if it is small, of a single array of bytes otherwise."""
    content = arrays.finish() if isinstance(arrays, PackedArrays) else _join_arrays(arrays)
    if len(content) <= SMALL:
        return ConfigRecord({PACKED: content})
    return ArrayRecord({PACKED: Array("uint8", (len(content),), SERIAL, content)})


def _join_arrays(arrays: State) -> bytes:
    """Return the packed bytes of arrays, which are copied once unless they are views of such bytes."""
    if (packed := find_packed_bytes(arrays)) is not None:
        return packed
    header, order = build_header(describe_arrays(arrays))
    return b"".join([header, *(np.ascontiguousarray(arrays[name]).data for name in order)])


def get_packed_bytes(record: object) -> bytes | None:
    """Return the packed bytes of a record that holds nothing else; None for any other record."""
    if not isinstance(record, Packed) or set(record) != {PACKED}:
        return None
    content = record[PACKED]
    if isinstance(content, bytes):
        return content if len(content) <= SMALL else None
    if not isinstance(content, Array):
        return None
    about = content.stype, content.dtype, tuple(content.shape)
    return content.data if about == (SERIAL, "uint8", (len(content.data),)) and len(content.data) > SMALL else None


def to_array_record(arrays: State) -> ArrayRecord:
    """Return named arrays in the form that Flower's own strategies and helpers expect."""
    return ArrayRecord({name: Array(np.asarray(array, order="C")) for name, array in arrays.items()})


def unpack_arrays(record: Packed) -> State:
    """Return the arrays of a record, packed or plain; never unpickles.

    Raises:
        FederationError: the bytes are not arrays.

    """
    content = get_packed_bytes(record)
    if content is None and (not isinstance(record, ArrayRecord) or PACKED in record):
        raise FederationError("The arrays of a message are not packed correctly.", SAME_RELEASE)
    try:
        if content is None:
            arrays = {name: array.numpy() for name, array in cast(ArrayRecord, record).items()}
        else:
            arrays, _ = view_arrays(content)
        is_numeric = all(array.dtype.kind in _NUMERIC_KINDS for array in arrays.values())
    except Exception as fault:  # two libraries parse bytes that come from outside
        raise FederationError("The arrays of a message cannot be read.", SAME_RELEASE) from fault
    if not is_numeric:
        raise FederationError("The arrays of a message are no numbers.", SAME_RELEASE)
    return arrays


def get_arrays(content: RecordDict, name: str) -> Packed:
    """Return a record of arrays.

    Not through `content.array_records`: the view of Flower 1.41 holds a reference cycle, which keeps 47 MB until the
    garbage collector runs.

    Raises:
        FederationError: there is no such record.

    """
    record = content.get(name)
    if not isinstance(record, Packed):
        raise FederationError(f"A message lacks the arrays {name!r}.", SAME_RELEASE)
    return record


def list_packed_names(data: bytes) -> list[str] | None:
    """Return the names in packed bytes, in their order; None if the bytes are not packed arrays."""
    try:
        length = int.from_bytes(data[:8], "little")
        entries = json.loads(data[8 : 8 + length]) if length <= len(data) - 8 else None
    except (ValueError, RecursionError):
        return None
    return list(entries) if isinstance(entries, dict) else None


def build_packed_header(shapes: Mapping[str, tuple[int, ...]], dtype: str) -> bytes:
    """Return the header of packed arrays of these shapes: all bytes before the values."""
    return build_header({name: (shape, dtype) for name, shape in shapes.items()})[0]
