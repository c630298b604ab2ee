"""Files of named arrays."""

import tracemalloc

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from fedhealth.utils.array_file import ArrayFileError, read_array_file, write_array_file

STATE = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.array(7, np.int64), "none": np.zeros((0, 4))}


def check_equal(found, state):
    assert list(found) == sorted(state)
    for name, array in state.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == array.tobytes()


def test_a_file_comes_back_and_can_be_written_to(tmp_path):
    path = tmp_path / "a.safetensors"
    write_array_file(path, STATE, {"round": "3"})
    found, about = read_array_file(path)
    check_equal(found, STATE)
    assert about == {"round": "3"}
    found["w"][0, 0] = 5


def test_the_library_reads_the_file_and_writes_one_that_is_read(tmp_path):
    write_array_file(tmp_path / "ours", STATE, {"k": "v"})
    with safe_open(tmp_path / "ours", framework="numpy") as file:
        check_equal({name: file.get_tensor(name) for name in sorted(file.keys())}, STATE)
        assert file.metadata()["k"] == "v"
    save_file(STATE, tmp_path / "theirs", {"k": "v"})
    found, about = read_array_file(tmp_path / "theirs")
    check_equal(found, STATE)
    assert about == {"k": "v"}


def test_an_array_that_is_no_block_of_memory_is_written_as_its_values(tmp_path):
    state = {"t": np.arange(12, dtype=np.float32).reshape(3, 4).T[::2]}
    write_array_file(tmp_path / "a", state)
    check_equal(read_array_file(tmp_path / "a")[0], state)


def test_texts_that_were_changed_are_refused_and_older_files_have_no_digest(tmp_path):
    path = tmp_path / "a"
    write_array_file(path, STATE, {"round": "37"})
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"37"', b'"35"'))
    with pytest.raises(ArrayFileError, match="digest of its texts"):
        read_array_file(path)
    save_file(STATE, path, {"round": "37"})
    assert read_array_file(path)[1] == {"round": "37"}


@pytest.mark.parametrize("keep", [0, 5, 8, 30, -1])
def test_a_damaged_file_is_told_from_arrays(tmp_path, keep):
    path = tmp_path / "a"
    write_array_file(path, STATE)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ArrayFileError, match="no arrays that can be read"):
        read_array_file(path)


@pytest.mark.parametrize("text", [b"[]", b"3", b'{"a": 3}', b'{"a": {}}', b"\xff" * 8, b"[" * 50_000])
def test_another_header_is_told_from_arrays(tmp_path, text):
    path = tmp_path / "a"
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    with pytest.raises(ArrayFileError):
        read_array_file(path)


def test_a_missing_file_is_an_error_of_the_system(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_array_file(tmp_path / "a")


def test_neither_writing_nor_reading_holds_a_second_copy(tmp_path):
    state = {"w": np.ones(1_000_000, np.float32)}
    tracemalloc.start()
    try:
        write_array_file(tmp_path / "a", state)
        assert tracemalloc.get_traced_memory()[1] < 0.1 * state["w"].nbytes
        found, _ = read_array_file(tmp_path / "a")
        assert tracemalloc.get_traced_memory()[1] < 1.1 * found["w"].nbytes
    finally:
        tracemalloc.stop()
