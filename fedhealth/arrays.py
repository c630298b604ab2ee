"""Named arrays as Flower records: packed into one safetensors file on our wire, one by one at Flower's interfaces.

Flower sends every array as objects of its own, a request each; a packed record costs the same few requests whatever the
model. The packed form has one spelling only (`header_of`), so that the site's gate can tell that nothing else is in it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from flwr.app import Array, ArrayRecord, RecordDict
from safetensors.numpy import load, save

from fedhealth.errors import FederationError

if TYPE_CHECKING:  # torch takes seconds, and commands that only read names have no use for it
    from fedhealth.training.state import State

PACKED = "packed"  # the only key of a packed record
SERIAL = "safetensors"  # how its content is written
_KINDS = {"<f4": "F32", "<i8": "I64", "|u1": "U8"}


def pack(arrays: State) -> ArrayRecord:
    """Return named arrays as one record of a single array of bytes."""
    content = save({name: np.asarray(array, order="C") for name, array in arrays.items()})
    return ArrayRecord({PACKED: Array("uint8", (len(content),), SERIAL, content)})


def plain(arrays: State) -> ArrayRecord:
    """Return named arrays as Flower's own strategies and helpers expect them."""
    return ArrayRecord({name: Array(np.asarray(array, order="C")) for name, array in arrays.items()})


def unpack(record: ArrayRecord) -> State:
    """Return the arrays of a record, packed or plain; never unpickles.

    Raises:
        FederationError: the bytes are no arrays.

    """
    try:
        if set(record) != {PACKED} or record[PACKED].stype != SERIAL:
            return {name: array.numpy() for name, array in record.items()}
        arrays = load(record[PACKED].data)
    except Exception as fault:  # three libraries read bytes of somebody else's making
        raise FederationError("A message's arrays cannot be read.", "Use the same fedhealth release.") from fault
    return {name: arrays[name] for name in sorted(arrays)}  # `load` lists them in another order each time


def arrays_in(content: RecordDict, name: str) -> ArrayRecord:
    """Return a record of arrays.

    Not through `content.array_records`: Flower 1.41's view refers back to its record, and 47 MB wait for the collector.

    Raises:
        FederationError: there is none of that name.

    """
    record = content.get(name)
    if not isinstance(record, ArrayRecord):
        raise FederationError(f"A message lacks the arrays {name!r}.", "Use the same fedhealth release everywhere.")
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
