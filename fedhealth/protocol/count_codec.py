"""Named counts as Flower records: packed like other arrays, then compressed; most bins of a histogram are empty.

The bytes follow from the counts alone: the site's egress gate makes them again and compares. Large counts (more than
`array_codec.SMALL`) are sent packed only, so whoever reads compressed ones knows how large they may become. So are a
few counts, which gain nothing: the reply of a private round has the same size whatever its values are.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from flwr.app import ConfigRecord

from fedhealth.errors import FederationError
from fedhealth.protocol.array_codec import PACKED, SMALL, Packed, get_packed_bytes, pack_arrays, unpack_arrays
from fedhealth.protocol.messages import SAME_RELEASE

if TYPE_CHECKING:  # torch takes seconds
    from fedhealth.types import State

COMPRESSED = "compressed"  # the only key of a compressed record
_LEAST = 1024  # packed bytes


def pack_counts(counts: State) -> Packed:
    """Return named int64 arrays as one record, compressed (zlib, RFC 1950) unless they are few or large."""
    return _compress_record(pack_arrays(counts))


def unpack_counts(record: Packed) -> State:
    """Return the arrays of a record, compressed or not; never unpickles.

    Raises:
        FederationError: the bytes are not arrays, or larger than any site sends.

    """
    return unpack_arrays(_expand_record(record))


def get_count_bytes(record: object) -> bytes | None:
    """Return the packed bytes of what `pack_counts` made; None for any other record."""
    if not isinstance(record, Packed):
        return None
    try:
        packed = _expand_record(record)
    except FederationError:
        return None
    is_canonical = get_packed_bytes(packed) is not None and _compress_record(packed) == record
    return get_packed_bytes(packed) if is_canonical else None


def _compress_record(packed: Packed) -> Packed:
    content = packed.get(PACKED)
    if not isinstance(content, bytes) or len(content) < _LEAST:
        return packed
    return ConfigRecord({COMPRESSED: zlib.compress(content)})


def _expand_record(record: Packed) -> Packed:
    """Return the packed record of a compressed one; any other as it is."""
    if set(record) != {COMPRESSED}:
        return record
    content, stream = record[COMPRESSED], zlib.decompressobj()
    try:
        packed = stream.decompress(content, SMALL) if isinstance(content, bytes) else b""
    except zlib.error:
        packed = b""
    if not packed or not stream.eof or stream.unused_data:
        raise FederationError("The counts of a message cannot be read.", SAME_RELEASE)
    return ConfigRecord({PACKED: packed})
