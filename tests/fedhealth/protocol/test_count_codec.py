import zlib

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fedhealth.errors import FederationError
from fedhealth.protocol.array_codec import PACKED, SMALL, get_packed_bytes, pack_arrays
from fedhealth.protocol.count_codec import COMPRESSED, get_count_bytes, pack_counts, unpack_counts

COUNTS = {"test.negatives": np.eye(1, 2048, 900, dtype=np.int64), "train.examples": np.array([-7])}
vectors = st.dictionaries(st.sampled_from("abcde"), arrays.arrays(np.int64, st.integers(0, 400)), max_size=3)


def packed_bytes(counts=COUNTS):
    return get_packed_bytes(pack_arrays(counts))


@settings(derandomize=True, deadline=None)
@given(vectors)
def test_counts_come_back_as_they_were(counts):
    found = unpack_counts(pack_counts(counts))
    assert set(found) == set(counts)
    for name, vector in counts.items():
        np.testing.assert_array_equal(found[name], vector)
        assert found[name].dtype == np.int64


def test_empty_bins_cost_next_to_nothing():
    record = pack_counts(COUNTS)
    assert set(record) == {COMPRESSED}
    assert len(record[COMPRESSED]) < 300 < len(packed_bytes())
    assert get_count_bytes(record) == packed_bytes()


def test_many_counts_are_packed_only():
    counts = {"a": np.zeros(SMALL // 8, np.int64)}
    record = pack_counts(counts)
    assert isinstance(record, ArrayRecord)
    assert get_count_bytes(record) == get_packed_bytes(record)
    np.testing.assert_array_equal(unpack_counts(record)["a"], counts["a"])


def test_the_size_of_a_few_counts_says_nothing_of_them():
    sizes = {len(get_packed_bytes(pack_counts({"drift.squares": np.array([value])}))) for value in (0, 1, 2**62 - 1)}
    assert len(sizes) == 1
    forged = ConfigRecord({COMPRESSED: zlib.compress(get_packed_bytes(pack_counts({"a": np.zeros(1, np.int64)})))})
    assert get_count_bytes(forged) is None  # the gate lets pass what the codec would have made


def test_the_lead_also_reads_what_is_not_compressed():
    np.testing.assert_array_equal(unpack_counts(pack_arrays(COUNTS))["train.examples"], [-7])


COMPRESSED_WELL = zlib.compress(packed_bytes())
UNREADABLE = {
    "text": "x",
    "nothing": b"",
    "other bytes": b"x" * 40,
    "a torn record": COMPRESSED_WELL[:-1],
    "something behind": COMPRESSED_WELL + b"x",
    "more than any site sends": zlib.compress(bytes(SMALL + 1)),
    "no arrays": zlib.compress(b"x" * 40),
    "an empty stream": zlib.compress(b""),
}


@pytest.mark.parametrize("what", UNREADABLE)
def test_what_is_no_compressed_record_is_refused(what):
    record = ConfigRecord({COMPRESSED: UNREADABLE[what]})
    with pytest.raises(FederationError, match="cannot be read"):
        unpack_counts(record)


@pytest.mark.parametrize(
    "record",
    [
        ConfigRecord({COMPRESSED: zlib.compress(packed_bytes(), 0)}),  # free room in the blocks
        ConfigRecord({COMPRESSED: COMPRESSED_WELL, "note": b"x"}),
        ConfigRecord({PACKED: packed_bytes()}),  # small, but not compressed
        ConfigRecord({COMPRESSED: COMPRESSED_WELL + b"x"}),
        ConfigRecord({}),
        "x",
    ],
    ids=range(6),
)
def test_only_the_one_form_of_the_counts_passes_the_gate(record):
    assert get_count_bytes(record) is None
