"""Named arrays as Flower records: packed into one safetensors file on our wire, one by one at Flower's interfaces.

Flower sends every array as three objects, a request each; a packed record costs as many whatever the model, and a small
one, which travels as a record of bytes, a single request. The packed form has one spelling only (`header_of`), so that
the site's gate can tell that nothing else is in it.
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
SERIAL = "safetensors"  # how its content is written
SMALL = 2**20  # bytes up to which packed arrays are one object; Flower cuts larger ones into pieces
_KINDS = {"<f4": "F32", "<i8": "I64", "|u1": "U8"}

Packed = ArrayRecord | ConfigRecord


def pack(arrays: State) -> Packed:
    """Return named arrays as one record: of bytes where it is small, of a single array of bytes otherwise."""
    content = save({name: np.asarray(array, order="C") for name, array in arrays.items()})
    if len(content) <= SMALL:
        return ConfigRecord({PACKED: content})
    return ArrayRecord({PACKED: Array("uint8", (len(content),), SERIAL, content)})


def packed_in(record: object) -> bytes | None:
    """Return the packed bytes of a record that says nothing else; None where it is no such record."""
    if not isinstance(record, Packed) or set(record) != {PACKED}:
        return None
    held = record[PACKED]
    if isinstance(held, bytes):
        return held if len(held) <= SMALL else None
    if not isinstance(held, Array):
        return None
    about = held.stype, held.dtype, tuple(held.shape)
    return held.data if about == (SERIAL, "uint8", (len(held.data),)) and len(held.data) > SMALL else None


def plain(arrays: State) -> ArrayRecord:
    """Return named arrays as Flower's own strategies and helpers expect them."""
    return ArrayRecord({name: Array(np.asarray(array, order="C")) for name, array in arrays.items()})


def unpack(record: Packed) -> State:
    """Return the arrays of a record, packed or plain; never unpickles.

    Raises:
        FederationError: the bytes are no arrays.

    """
    content = packed_in(record)
    if content is None and (not isinstance(record, ArrayRecord) or PACKED in record):
        raise FederationError("A message's arrays are not packed as they should be.", SAME_RELEASE)
    try:
        if content is None:
            return {name: array.numpy() for name, array in cast(ArrayRecord, record).items()}
        arrays = load(content)
    except Exception as fault:  # three libraries read bytes of somebody else's making
        raise FederationError("A message's arrays cannot be read.", SAME_RELEASE) from fault
    return {name: arrays[name] for name in sorted(arrays)}  # `load` lists them in another order each time


def arrays_in(content: RecordDict, name: str) -> Packed:
    """Return a record of arrays.

    Not through `content.array_records`: Flower 1.41's view refers back to its record, and 47 MB wait for the collector.

    Raises:
        FederationError: there is none of that name.

    """
    record = content.get(name)
    if not isinstance(record, Packed):
        raise FederationError(f"A message lacks the arrays {name!r}.", SAME_RELEASE)
    return record


def names_in(data: bytes) -> list[str] | None:
    """Return the names that packed bytes list, in their order; None where they are no such thing."""
    try:
        length = int.from_bytes(data[:8], "little")
        listed = json.loads(data[8 : 8 + length]) if length <= len(data) - 8 else None
    except ValueError:
        return None
    return list(listed) if isinstance(listed, dict) else None


def header_of(shapes: Mapping[str, tuple[int, ...]], dtype: str) -> bytes:
    """Return how packed arrays of these shapes begin: everything before their values."""
    listed, start = {}, 0
    for name in sorted(shapes):
        end = start + math.prod(shapes[name]) * np.dtype(dtype).itemsize
        listed[name] = {"dtype": _KINDS[dtype], "shape": list(shapes[name]), "data_offsets": [start, end]}
        start = end
    text = json.dumps(listed, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
