"""Store a site's quantized update for the duration of a round, so that a failed attempt needs no new training."""

import json
from dataclasses import dataclass

import numpy as np

from fedhealth.secagg.primitives.layout import Words
from fedhealth.secagg.protocol.store import StateStore

WORDS = "quantized-words"
_SIZE_BYTES = 8  # of the header's length, before it


@dataclass(frozen=True)
class QuantizedUpdate:
    """One site's quantized words; as confidential as the data they were computed from.

    Args:
        segments: {segment name: (segment digest, announced weight, words)}.

    """

    segments: dict[str, tuple[bytes, int, Words]]


def save_quantized(store: StateStore, stored: QuantizedUpdate) -> None:
    """Write a header and the words, in one file: neither can be there without the other.

    A crash may leave no words: those of the vector before are of no use any more, and these can be computed again.
    """
    found = stored.segments.items()
    listed = {name: (digest.hex(), weight, words.dtype.str, len(words)) for name, (digest, weight, words) in found}
    header = json.dumps(listed).encode()
    words = (words.data.cast("B") for _, _, words in stored.segments.values())
    store.rewrite(WORDS, len(header).to_bytes(_SIZE_BYTES, "little"), header, *words)


def load_quantized(store: StateStore) -> QuantizedUpdate | None:
    """Load the words; None if there are none."""
    data = store.get(WORDS)
    if data is None:
        return None
    at = _SIZE_BYTES + int.from_bytes(data[:_SIZE_BYTES], "little")
    segments = {}
    for name, (digest, weight, dtype, count) in json.loads(data[_SIZE_BYTES:at]).items():
        words = np.frombuffer(data, dtype, count, at)
        segments[name] = (bytes.fromhex(digest), weight, words)
        at += words.nbytes
    return QuantizedUpdate(segments)


def delete_quantized(store: StateStore) -> None:
    """Delete the words, if there are any."""
    store.delete(WORDS)
