"""Where images lie: a cache without gaps, most of them where they were written first."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhealth.ingest.pixel_layout import HEADER_BYTES, PixelReader, assign_slots, build_npy_header, hash_pixels
from fedhealth.ingest.records import StoredImage

PICTURES = st.lists(st.integers(0, 3), max_size=12)  # of each file


@given(PICTURES, st.lists(st.integers(1, 3), max_size=3))
def test_every_slot_is_taken_once_and_the_first_image_of_a_file_stays(files, series):
    slots = {f"file {number}": number for number in range(len(files))}
    counts = dict(zip(slots, files, strict=True)) | {f"series {number}": each for number, each in enumerate(series)}
    pictures = [(name, number) for name, count in counts.items() for number in range(count)]
    found = assign_slots(pictures, slots)
    assert sorted(found) == list(range(len(pictures)))
    for (name, number), slot in zip(pictures, found, strict=True):
        if number == 0 and slots.get(name, len(pictures)) < len(pictures):
            assert slot == slots[name]


def test_files_with_one_image_each_are_in_order():
    slots = {name: number for number, name in enumerate("abcd")}
    assert assign_slots([(name, 0) for name in "abcd"], slots) == [0, 1, 2, 3]
    assert assign_slots([("a", 0), ("c", 0), ("d", 0)], slots) == [0, 2, 1]


@pytest.mark.parametrize("count", [0, 1, 99_999, 2**40])
@pytest.mark.parametrize("kind", ["u1", "<u2"])
def test_the_header_is_numpys_and_always_as_long(count, kind):
    found = build_npy_header(count, (3, 1024, 1024), np.dtype(kind))
    assert len(found) == HEADER_BYTES
    file = io.BytesIO(found)
    assert np.lib.format.read_magic(file) == (1, 0)
    assert np.lib.format.read_array_header_1_0(file) == ((count, 3, 1024, 1024), False, np.dtype(kind))


def test_pixels_that_are_not_those_that_were_written_are_none(tmp_path):
    (tmp_path / "a.bin").write_bytes(bytes(HEADER_BYTES) + b"1234" + b"5678")
    with PixelReader(tmp_path, None, 4) as pixels:
        assert pixels.read(StoredImage("a.bin", 1, hash_pixels(b"5678"))) == b"5678"
        for lost in (
            StoredImage("a.bin", 0, hash_pixels(b"5678")),
            StoredImage("a.bin", 2, hash_pixels(b"9")),
            StoredImage("b.bin", 0, ""),
        ):
            assert pixels.read(lost) is None
