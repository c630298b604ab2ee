"""Packed arrays: the same values on both sides, one spelling only, and garbage is refused and never loaded."""

import json
from contextlib import suppress

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from safetensors.numpy import save

from fedhealth.errors import FederationError
from fedhealth.protocol.array_codec import (
    PACKED,
    SMALL,
    build_packed_header,
    get_arrays,
    get_packed_bytes,
    list_packed_names,
    make_packed_arrays,
    pack_arrays,
    to_array_record,
    unpack_arrays,
)
from fedhealth.protocol.messages import STATISTICS, UPDATE

NAMES = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=12).filter(
    lambda n: n != "__metadata__"
)
KINDS = ("<f4", "<i8", "|u1")


def states(kinds=KINDS):
    shapes = array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
    return st.sampled_from(kinds).flatmap(lambda kind: st.dictionaries(NAMES, arrays(np.dtype(kind), shapes)))


def raw(content):
    return ConfigRecord({PACKED: content})


@given(states())
def test_what_is_packed_comes_back_in_the_order_of_names(state):
    back = unpack_arrays(pack_arrays(state))
    assert list(back) == sorted(state)
    for name, array in state.items():
        assert back[name].dtype == array.dtype
        assert back[name].shape == array.shape
        assert back[name].tobytes() == array.tobytes()


@given(states())
def test_there_is_one_spelling_of_the_header(state):
    kind = next((array.dtype.str for array in state.values()), "<f4")
    content = get_packed_bytes(pack_arrays(state))
    assert content.startswith(build_packed_header({name: array.shape for name, array in state.items()}, kind))
    assert sorted(list_packed_names(content)) == sorted(state)


@pytest.mark.parametrize("over", [0, 1])
def test_a_small_record_is_one_object_and_a_large_one_is_cut_into_pieces(over):
    state = {"w": np.zeros(SMALL - 80 + over, np.uint8)}  # the header is 80 bytes long
    record = pack_arrays(state)
    assert isinstance(record, ArrayRecord if over else ConfigRecord)
    assert len(get_packed_bytes(record)) == SMALL + over
    assert unpack_arrays(record)["w"].shape == state["w"].shape


def test_what_is_packed_and_says_more_is_refused():
    for record in (
        ConfigRecord({PACKED: "text"}),
        ConfigRecord({PACKED: b"", "more": 1}),
        ArrayRecord({PACKED: Array("uint8", (1,), "pickle", b"x")}),
    ):
        assert get_packed_bytes(record) is None
        with pytest.raises(FederationError, match="not packed"):
            unpack_arrays(record)


def test_arrays_in_fortran_order_keep_their_values():
    array = np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3))
    assert np.array_equal(unpack_arrays(pack_arrays({"w": array}))["w"], array)


def test_plain_records_are_read_too():
    state = {"b": np.ones(2, np.float32), "a": np.zeros((1, 2), np.int64)}
    assert {name: array.tolist() for name, array in unpack_arrays(to_array_record(state)).items()} == {
        "b": [1, 1],
        "a": [[0, 0]],
    }


@given(st.binary(max_size=200))
def test_garbage_is_refused_or_holds_nothing(content):
    with suppress(FederationError):
        assert unpack_arrays(raw(content)) == {}


@given(st.integers(0, 60), st.binary(min_size=1, max_size=4))
def test_a_damaged_header_never_raises_anything_else(at, noise):
    content = save({"w": np.ones(3, np.float32)})
    with suppress(FederationError):
        unpack_arrays(raw(content[:at] + noise + content[at + len(noise) :]))


def save_npz(path):
    with path.open("wb") as file:
        np.savez(file, a=np.ones(2))
    return path.read_bytes()


@pytest.mark.parametrize("kind", [UPDATE, STATISTICS])
def test_an_archive_in_place_of_an_array_is_refused(kind, tmp_path):
    plain = ArrayRecord({"w": Array("float32", (2,), "numpy.ndarray", save_npz(tmp_path / "a.npz"))})
    with pytest.raises(FederationError, match="cannot be read"):
        unpack_arrays(get_arrays(RecordDict({kind: plain}), kind))


def test_a_message_without_the_arrays_is_refused():
    with pytest.raises(FederationError, match="lacks the arrays 'update'"):
        get_arrays(RecordDict(), "update")


@given(states())
def test_arrays_that_were_computed_in_place_are_packed_alike_and_without_a_copy(state):
    kind = next((array.dtype.str for array in state.values()), "<f4")
    packed = make_packed_arrays({name: array.shape for name, array in state.items()}, kind)
    for name, array in state.items():
        packed[name][...] = array
    content = get_packed_bytes(pack_arrays(packed))
    assert content == get_packed_bytes(pack_arrays(dict(state)))
    for array in packed.values():  # what was packed is what left: nobody can change it afterwards
        assert not array.flags.writeable
        assert not array.size or np.shares_memory(array, np.frombuffer(content, np.uint8))


def test_an_array_that_somebody_else_still_holds_cannot_change_what_was_packed():
    packed = make_packed_arrays({"w": (4,)}, "<f4")
    held = packed["w"]
    record = pack_arrays(packed)
    with pytest.raises(ValueError, match="read-only"):
        held[...] = 7
    assert unpack_arrays(record)["w"].tolist() == [0, 0, 0, 0]


@given(states())
def test_the_bytes_are_those_of_safetensors(state):
    assert get_packed_bytes(pack_arrays(state)) == save(state)


def test_what_is_read_are_views_of_the_message():
    record = pack_arrays({"w": np.ones(4, np.float32)})
    array = unpack_arrays(record)["w"]
    assert np.shares_memory(array, np.frombuffer(get_packed_bytes(record), np.uint8))
    assert not array.flags.writeable


@pytest.mark.parametrize(
    "entries",
    [
        {"a": ([0, 4], [1]), "b": ([8, 12], [1])},  # a hole
        {"a": ([0, 8], [2]), "b": ([4, 12], [2])},  # an overlap
        {"a": ([0, 8], [1])},  # more bytes than values
        {"a": ([0, 4], [1])},  # bytes that belong to nothing
        {"a": ([0, 12], [-3])},
        {"a": ([0, 12], [3.0])},
    ],
)
def test_arrays_that_do_not_fill_the_bytes_exactly_are_refused(entries):
    header = {name: {"dtype": "F32", "shape": shape, "data_offsets": at} for name, (at, shape) in entries.items()}
    text = json.dumps(header).encode()
    with pytest.raises(FederationError, match="cannot be read"):
        unpack_arrays(raw(len(text).to_bytes(8, "little") + text + bytes(12)))
