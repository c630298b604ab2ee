import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhealth.secagg.primitives.layout import Segment, VectorSpec, make_model_segment
from fedhealth.secagg.primitives.packing import PIECE, add_packed, pack_words


def segment(bits: int, length: int) -> Segment:
    if bits == 64:
        return Segment("s", "t", "statistics", 64, (VectorSpec("x", length, 10, 1),), 3)
    return make_model_segment("s", "t", {"x": length}, bound=1, bits=bits, sites=3, normaliser=1)


@settings(derandomize=True, deadline=None)
@given(st.sampled_from([*range(16, 33), 64]), st.integers(1, 200), st.integers(0, 2**32))
def test_pack_keeps_k_bits_and_adds_modulo_them(bits, length, seed):
    about, rng = segment(bits, length), np.random.default_rng(seed)
    first, second = (rng.integers(0, 2**64, about.words, np.uint64).astype(about.dtype) for _ in range(2))
    packed = pack_words(first, about)
    assert packed.dtype == np.uint8
    assert packed.shape == (about.wire_bytes,)
    total = second.copy()
    add_packed(total, packed, about)
    keep = about.dtype.type(2**bits - 1)
    assert np.array_equal(total & keep, (first + second) & keep)


@pytest.mark.parametrize("bits", [17, 24, 31])
def test_pieces_join(bits):
    about = segment(bits, 32 * (2 * PIECE + 3))
    words = np.random.default_rng(0).integers(0, 2**32, about.words, np.uint32)
    total = np.zeros_like(words)
    add_packed(total, pack_words(words, about), about)
    keep = np.uint32(2**bits - 1)
    assert np.array_equal(total & keep, words & keep)


@pytest.mark.parametrize("bits", [16, 32, 64])
def test_whole_words_are_not_copied(bits):
    about = segment(bits, 10)
    words = np.zeros(about.words, about.dtype)
    assert np.shares_memory(pack_words(words, about), words)
