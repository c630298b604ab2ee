"""Words to bytes and back: 16, 32 and 64 bits as they lie in memory, 17 to 31 bits without gaps.

Gapless layout: the words are read as 32 rows of m; row j fills bits j*k to (j+1)*k of a column of k 32-bit words,
and the k rows of such words follow each other. All steps are shifts of whole rows, done in pieces that fit the cache.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from fedhealth.secagg.primitives.layout import Segment, Words

PIECE = 2**12
UNPACKED_BITS = (16, 32, 64)  # words of these sizes are the same in memory and on the wire
PackedWords = NDArray[np.uint8]


def pack_words(words: Words, segment: Segment) -> PackedWords:
    """Return the segment's wire bytes; a view of the words if they need no packing."""
    k = segment.bits
    if k in UNPACKED_BITS:
        return words.view(np.uint8)
    rows = words.reshape(32, -1)
    out = np.zeros((k, rows.shape[1]), dtype="<u4")
    keep = np.uint32(2**k - 1)
    scratch = np.empty(PIECE, dtype="<u4")
    for piece in _iterate_slices(rows.shape[1]):
        source, target = rows[:, piece], out[:, piece]
        part = scratch[: source.shape[1]]
        for j in range(32):
            word, shift = divmod(j * k, 32)
            np.bitwise_and(source[j], keep, out=part)
            target[word] |= part << np.uint32(shift)
            if shift + k > 32:
                target[word + 1] |= part >> np.uint32(32 - shift)
    return out.reshape(-1).view(np.uint8)


def view_words(packed: PackedWords, segment: Segment) -> Words | None:
    """Return wire bytes as the segment's words; None if the words are packed more tightly on the wire."""
    return packed.view(segment.dtype) if segment.bits in UNPACKED_BITS else None


def add_packed(total: Words, packed: PackedWords, segment: Segment) -> None:
    """Add packed words to a total in place, modulo 2^k in its low k bits; higher bits are meaningless."""
    k = segment.bits
    if k in UNPACKED_BITS:
        np.add(total, packed.view(segment.dtype), out=total)
        return
    rows, source = total.reshape(32, -1), packed.view("<u4").reshape(k, -1)
    for piece in _iterate_slices(rows.shape[1]):
        for j in range(32):
            word, shift = divmod(j * k, 32)
            part = source[word, piece] >> np.uint32(shift)
            if shift + k > 32:
                part |= source[word + 1, piece] << np.uint32(32 - shift)
            rows[j, piece] += part


def _iterate_slices(length: int) -> Iterator[slice]:
    return (slice(at, at + PIECE) for at in range(0, length, PIECE))
