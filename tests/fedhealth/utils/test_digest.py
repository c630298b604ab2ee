"""Two different lists of parts never share a digest, and parts added one by one give the same one."""

import hashlib

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fedhealth.utils.digest import TranscriptDigest, digest_parts, encode_canonical, encode_parts

PARTS = st.lists(st.binary(max_size=9), max_size=4)


@given(one=PARTS, other=PARTS)
def test_different_lists_have_different_encodings(one, other):
    assert (encode_parts(*one) == encode_parts(*other)) == (one == other)


@given(parts=PARTS)
def test_parts_may_be_added_one_by_one(parts):
    stream = TranscriptDigest(b"test 1")
    for part in parts:
        stream.add(part)
    assert stream.digest() == digest_parts(b"test 1", *parts)
    assert stream.hexdigest() == hashlib.sha256(encode_parts(b"test 1", *parts)).hexdigest()


def test_a_label_separates_purposes():
    assert digest_parts(b"a", b"b") != digest_parts(b"b", b"b")


def test_the_length_of_an_array_is_counted_in_bytes():
    array = np.arange(3, dtype=np.int64)
    stream = TranscriptDigest(b"test 1")
    stream.add(array.data)
    assert stream.digest() == digest_parts(b"test 1", array.tobytes())


def test_equal_values_have_one_json_encoding():
    assert encode_canonical({"b": 1, "a": [True, None, "ä"]}) == b'{"a":[true,null,"\\u00e4"],"b":1}'
