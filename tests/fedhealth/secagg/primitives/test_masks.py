import os

import numpy as np
import pytest

from fedhealth.secagg.primitives.masks import CHUNK_BYTES, Keystream, apply_masks


def test_keystream_matches_fips_197():
    """AES-256 of the standard's example block, reached as a counter value."""
    counter = int.from_bytes(bytes.fromhex("00112233445566778899aabbccddeeff"), "big")
    buffer = bytearray(32)
    Keystream(bytes(range(32)), offset=16 * counter).fill(buffer, 16)
    assert buffer[:16].hex() == "8ea2b7ca516745bfeafc49904b496089"


@pytest.mark.parametrize("dtype", ["<u2", "<u4", "<u8"])
def test_masks_cancel_between_a_pair(dtype):
    rng, key, own = np.random.default_rng(1), os.urandom(32), os.urandom(32)
    values = rng.integers(0, 2**16, 2 * CHUNK_BYTES // np.dtype(dtype).itemsize + 7).astype(dtype)
    low, high = values.copy(), values.copy()
    apply_masks(low, [own, key], [])
    apply_masks(high, [], [key])
    assert not np.array_equal(low, values)
    total = low + high
    apply_masks(total, [], [own])
    assert np.array_equal(total, values + values)


def test_workers_make_no_difference():
    keys = [os.urandom(32) for _ in range(4)]
    alone, together = (np.zeros(3 * CHUNK_BYTES + 5, "<u4") for _ in range(2))
    apply_masks(alone, keys[:2], keys[2:])
    apply_masks(together, keys[:2], keys[2:], workers=3)
    assert np.array_equal(alone, together)


@pytest.mark.parametrize("dtype", ["<u2", "<u4", "<u8"])
def test_a_masked_constant_looks_uniform(dtype):
    vector = np.full(2**17, 12345, dtype)
    apply_masks(vector, [os.urandom(32)], [os.urandom(32)])
    counts = np.bincount(vector.view(np.uint8), minlength=256)
    expected = vector.nbytes / 256
    chi_square = ((counts - expected) ** 2 / expected).sum()
    # 255 degrees of freedom: eight standard deviations on both sides.
    assert abs(chi_square - 255) < 8 * np.sqrt(2 * 255)
    bits = np.unpackbits(vector.view(np.uint8)).astype(np.int64)
    assert abs(bits.sum() - len(bits) / 2) < 6 * np.sqrt(len(bits)) / 2
    repeats = np.count_nonzero(bits[1:] == bits[:-1])
    assert abs(repeats - len(bits) / 2) < 6 * np.sqrt(len(bits)) / 2
