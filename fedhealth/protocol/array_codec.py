"""Named arrays as Flower records: packed into one safetensors file on the wire, one by one at Flower's interfaces.

Flower sends every array as three objects with one request each. A packed record needs three requests for any model, and
a small one, which travels as a record of bytes, a single request. The packed form is canonical
(`build_packed_header`), so that the site's egress gate can verify that it contains nothing else.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from safetensors.numpy import load, save

from fedhealth.errors import FederationError
from fedhealth.protocol.messages import SAME_RELEASE

if TYPE_CHECKING:  # torch takes seconds, and commands that only read names have no use for it
    from fedhealth.types import State

PACKED = "packed"  # the only key of a packed record
SERIAL = "safetensors"  # the format of its content
SMALL = 2**20  # bytes up to which packed arrays are one object; Flower cuts larger ones into pieces
_DTYPE_NAMES = {"<f4": "F32", "<i8": "I64", "|u1": "U8"}

_NUMERIC_KINDS = "biuf"  # of numpy

Packed = ArrayRecord | ConfigRecord


def pack_arrays(arrays: State) -> Packed:
    """Return named arrays as one record: of bytes if it is small, of a single array of bytes otherwise."""
    content = save({name: np.asarray(array, order="C") for name, array in arrays.items()})
    if len(content) <= SMALL:
        return ConfigRecord({PACKED: content})
    return ArrayRecord({PACKED: Array("uint8", (len(content),), SERIAL, content)})


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
        plain = content is None
        arrays = {n: each.numpy() for n, each in cast(ArrayRecord, record).items()} if plain else load(content)
    except Exception as fault:  # three libraries parse bytes that come from outside
        raise FederationError("The arrays of a message cannot be read.", SAME_RELEASE) from fault
    if any(array.dtype.kind not in _NUMERIC_KINDS for array in arrays.values()):
        raise FederationError("The arrays of a message are no numbers.", SAME_RELEASE)
    if plain:
        return arrays
    return {name: arrays[name] for name in sorted(arrays)}  # `load` returns them in varying order


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
    except ValueError:
        return None
    return list(entries) if isinstance(entries, dict) else None


def build_packed_header(shapes: Mapping[str, tuple[int, ...]], dtype: str) -> bytes:
    """Return the header of packed arrays of these shapes: all bytes before the values."""
    entries, start = {}, 0
    for name in sorted(shapes):
        end = start + math.prod(shapes[name]) * np.dtype(dtype).itemsize
        entries[name] = {"dtype": _DTYPE_NAMES[dtype], "shape": list(shapes[name]), "data_offsets": [start, end]}
        start = end
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
