"""A site's quantised vector, kept until its round is over: a failed attempt is masked again without training."""

import json
from dataclasses import dataclass

import numpy as np

from fedhealth.secagg.protocol.layout import Words
from fedhealth.secagg.protocol.store import Store, hashed_name

HEADER = "kept"


@dataclass(frozen=True)
class Quantised:
    """One site's words; as secret as the data they came from.

    Args:
        segments: {segment name: (segment digest, announced weight, words)}.

    """

    segments: dict[str, tuple[bytes, int, Words]]


def save(store: Store, kept: Quantised) -> None:
    """Write the words, then the header: a header without its words cannot exist."""
    store.delete(HEADER)
    header = {}
    for name, (digest, weight, words) in kept.segments.items():
        store.write(hashed_name("kept", name), words.data)
        header[name] = (digest.hex(), weight, words.dtype.str)
    store.write(HEADER, json.dumps(header).encode())


def load(store: Store) -> Quantised | None:
    """Read the words back; None when nothing is kept."""
    data = store.read(HEADER)
    if data is None:
        return None
    segments = {}
    for name, (digest, weight, dtype) in json.loads(data).items():
        words = np.frombuffer(store.read(hashed_name("kept", name)) or b"", dtype=dtype)
        segments[name] = (bytes.fromhex(digest), weight, words)
    return Quantised(segments)


def forget(store: Store) -> None:
    """Remove what is kept."""
    kept = load(store)
    store.delete(HEADER)
    for name in kept.segments if kept else ():
        store.delete(hashed_name("kept", name))
