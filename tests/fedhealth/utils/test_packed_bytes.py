"""Named arrays as the bytes of a safetensors file."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from safetensors.numpy import load, save

from fedhealth.utils.packed_bytes import build_header, describe_arrays, find_packed_bytes, view_arrays

KINDS = ("|b1", "|u1", "<u2", "<i4", "<f4", "<i8", "<f8")
NAMES = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=8).filter(
    lambda name: name != "__metadata__"
)
SHAPES = array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
STATES = st.dictionaries(NAMES, st.sampled_from(KINDS).flatmap(lambda kind: arrays(np.dtype(kind), SHAPES)), max_size=4)
TEXTS = st.dictionaries(NAMES, st.text(st.characters(exclude_categories=("Cs",)), max_size=8), max_size=3)


def pack(state, about=None):
    header, order = build_header(describe_arrays(state), about)
    return header + b"".join(state[name].tobytes() for name in order)


@given(STATES, TEXTS)
def test_the_library_reads_what_is_packed_and_the_other_way_round(state, about):
    by_library = load(pack(state, about))
    back, texts = view_arrays(save({name: np.array(array) for name, array in state.items()}, about or None))
    assert texts == about
    assert list(back) == sorted(state)
    for name, array in state.items():
        for found in (by_library[name], back[name]):
            assert (found.dtype, found.shape, found.tobytes()) == (array.dtype, array.shape, array.tobytes())


@given(STATES)
def test_views_of_packed_bytes_are_packed_without_a_copy(state):
    content = pack(state)
    back, _ = view_arrays(content)
    assert find_packed_bytes(back) is (content if state else None)


def test_only_the_whole_of_packed_bytes_is_found():
    state = {"a": np.arange(4, dtype=np.float32), "b": np.ones((2, 2), np.float32)}
    views, _ = view_arrays(pack(state))
    assert find_packed_bytes({"a": views["a"]}) is None
    assert find_packed_bytes(views | {"b": state["b"]}) is None
    assert find_packed_bytes({"a": views["b"], "b": views["a"]}) is None
    assert find_packed_bytes(views | {"b": views["b"].T}) is None
    assert find_packed_bytes(views | {"b": views["b"].reshape(4)}) is None
    assert find_packed_bytes(views | {"b": views["b"].view(np.int32)}) is None
    assert find_packed_bytes({"c": views["a"], "b": views["b"]}) is None
    assert find_packed_bytes(view_arrays(pack(state, {"round": "1"}))[0]) is None  # a message holds arrays alone


def test_views_of_a_bytearray_can_be_written_to():
    content = bytearray(pack({"a": np.zeros(3, np.float32)}))
    view_arrays(content)[0]["a"][:] = 2
    assert view_arrays(content)[0]["a"].tolist() == [2, 2, 2]
    assert find_packed_bytes(view_arrays(content)[0]) is None  # their owner may change them


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [4]},
        {"shape": [-3]},
        {"shape": [3.0]},
        {"shape": 3},
        {"dtype": "F8"},
        {"data_offsets": [4, 16]},
        {"data_offsets": [0, 16]},
        {"data_offsets": None},
    ],
)
def test_a_header_that_does_not_fit_is_refused(change):
    entry = {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]} | change
    text = json.dumps({"a": entry}).encode()
    with pytest.raises((ValueError, KeyError, TypeError)):
        view_arrays(len(text).to_bytes(8, "little") + text + bytes(12))


@pytest.mark.parametrize("about", [5, None, ["x"], {"x": 1}])
def test_texts_of_a_header_that_are_none_are_refused(about):
    text = json.dumps({"__metadata__": about}).encode()
    with pytest.raises(ValueError, match="__metadata__"):
        view_arrays(len(text).to_bytes(8, "little") + text)
