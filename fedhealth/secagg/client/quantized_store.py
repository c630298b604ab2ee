"""Store a site's quantized update for the duration of a round, so that a failed attempt needs no new training."""

import json
from dataclasses import dataclass

import numpy as np

from fedhealth.secagg.primitives.layout import Words
from fedhealth.secagg.protocol.store import StateStore, build_hashed_name

HEADER = "quantized"


@dataclass(frozen=True)
class QuantizedUpdate:
    """One site's quantized words; as confidential as the data they were computed from.

    Args:
        segments: {segment name: (segment digest, announced weight, words)}.

    """

    segments: dict[str, tuple[bytes, int, Words]]


def save_quantized(store: StateStore, stored: QuantizedUpdate) -> None:
    """Write the words, then the header: a header without its words cannot exist."""
    store.delete(HEADER)
    header = {}
    for name, (digest, weight, words) in stored.segments.items():
        store.put(build_hashed_name("quantized", name), words.data)
        header[name] = (digest.hex(), weight, words.dtype.str)
    store.put(HEADER, json.dumps(header).encode())


def load_quantized(store: StateStore) -> QuantizedUpdate | None:
    """Load the words; None if there are none."""
    data = store.get(HEADER)
    if data is None:
        return None
    segments = {}
    for name, (digest, weight, dtype) in json.loads(data).items():
        words = np.frombuffer(store.get(build_hashed_name("quantized", name)) or b"", dtype=dtype)
        segments[name] = (bytes.fromhex(digest), weight, words)
    return QuantizedUpdate(segments)


def delete_quantized(store: StateStore) -> None:
    """Delete the words, if there are any."""
    stored = load_quantized(store)
    store.delete(HEADER)
    for name in stored.segments if stored else ():
        store.delete(build_hashed_name("quantized", name))
