"""Masks: AES-256-CTR keystreams added to a vector in place, modulo its word size.

Every key is used once (derived or drawn for one attempt and one segment), so the counter starts at zero. Chunks fit the
cache and one buffer serves all keys, so extra memory does not grow with the vector.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR

from fedhealth.secagg.primitives.layout import Words

CHUNK_BYTES = 2**17
BLOCK_BYTES = 16
_ZEROS = memoryview(bytes(CHUNK_BYTES))


class Keystream:
    """The keystream of one key, from a byte offset that is a multiple of 16."""

    def __init__(self, key: bytes, offset: int = 0) -> None:
        counter = (offset // BLOCK_BYTES).to_bytes(BLOCK_BYTES, "big")
        self._cipher = Cipher(AES256(key), CTR(counter)).encryptor()

    def fill(self, buffer: bytearray, size: int) -> None:
        """Write the next `size` bytes into the buffer, at most CHUNK_BYTES."""
        self._cipher.update_into(_ZEROS[:size], buffer)


def apply_masks(vector: Words, plus: Sequence[bytes], minus: Sequence[bytes], workers: int = 1) -> None:
    """Add the masks of some keys to a vector and subtract those of others, in place.

    Args:
        vector: one-dimensional, unsigned words; wraps around at the word size.
        plus: 32-byte keys whose keystream is added.
        minus: 32-byte keys whose keystream is subtracted.
        workers: threads; each takes its own part of the vector.

    """
    if workers == 1:
        _apply_masks_from(vector, 0, plus, minus)
        return
    words = CHUNK_BYTES // vector.itemsize
    part = -(-len(vector) // (workers * words)) * words
    with ThreadPoolExecutor(workers) as pool:
        jobs = [
            pool.submit(_apply_masks_from, vector[at : at + part], at * vector.itemsize, plus, minus)
            for at in range(0, len(vector), part)
        ]
    for job in jobs:
        job.result()


def _apply_masks_from(vector: Words, offset: int, plus: Sequence[bytes], minus: Sequence[bytes]) -> None:
    streams: list[tuple[Keystream, np.ufunc]] = [(Keystream(key, offset), np.add) for key in plus]
    streams += [(Keystream(key, offset), np.subtract) for key in minus]
    buffer = bytearray(CHUNK_BYTES + BLOCK_BYTES)
    words = CHUNK_BYTES // vector.itemsize
    noise = np.frombuffer(buffer, dtype=vector.dtype, count=words)
    for at in range(0, len(vector), words):
        chunk = vector[at : at + words]
        size, mask = chunk.nbytes, noise[: len(chunk)]
        for stream, combine in streams:
            stream.fill(buffer, size)
            combine(chunk, mask, out=chunk)
