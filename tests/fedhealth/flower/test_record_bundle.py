"""The small records of a message as one object: they come back as they were, and a bad bundle changes nothing."""

import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from hypothesis import given
from hypothesis import strategies as st

from fedhealth.flower.record_bundle import BUNDLE, LARGEST, bundle_records, unbundle_records

VALUES = st.one_of(
    st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), st.text(), st.binary(max_size=99)
)
RECORDS = st.dictionaries(st.text(max_size=9).filter(bool), VALUES, max_size=4)


def make_content(records: dict[str, dict[str, object]]) -> RecordDict:
    return RecordDict({name: ConfigRecord(dict(values)) for name, values in records.items()})  # type: ignore[arg-type]


@given(st.dictionaries(st.text(max_size=9).filter(lambda name: name != BUNDLE), RECORDS, max_size=5))
def test_records_come_back_as_they_were(records: dict[str, dict[str, object]]) -> None:
    content = make_content(records)
    assert dict(unbundle_records(bundle_records(content))) == dict(content)


def test_small_records_are_one_object_and_large_ones_and_arrays_stay_alone() -> None:
    content = make_content({"a": {"n": 1}, "b": {"n": 2}, "large": {"n": bytes(LARGEST + 1)}})
    content["model"] = ArrayRecord({"w": Array("uint8", (3,), "x", b"abc")})
    bundled = bundle_records(content)
    assert set(bundled) == {BUNDLE, "large", "model"}
    assert len(get_all_nested_objects(bundled)) == len(get_all_nested_objects(content)) - 1
    found = unbundle_records(bundled)
    assert set(found) == set(content)
    assert found["large"] == content["large"]
    assert found["model"].object_id == content["model"].object_id


def test_a_single_small_record_is_sent_as_it_is() -> None:
    content = make_content({"a": {"n": 1}})
    assert bundle_records(content) is content
    assert unbundle_records(content) is content


def test_a_content_that_has_a_bundle_is_not_bundled_again() -> None:
    content = bundle_records(make_content({"a": {"n": 1}, "b": {"n": 2}}))
    content["c"], content["d"] = ConfigRecord({"n": 3}), ConfigRecord({"n": 4})
    assert bundle_records(content) is content
    assert set(unbundle_records(content)) == {"a", "b", "c", "d"}


PART = ConfigRecord({"n": 1}).deflate()
MALFORMED = {
    "no record": ArrayRecord({}),
    "nothing": ConfigRecord({}),
    "another key": ConfigRecord({"names": ["a"], "records": [PART], "more": 1}),
    "texts instead of bytes": ConfigRecord({"names": ["a"], "records": ["x"]}),
    "a text instead of a list": ConfigRecord({"names": "a", "records": [PART]}),
    "numbers as names": ConfigRecord({"names": [1], "records": [PART]}),
    "more records than names": ConfigRecord({"names": ["a"], "records": [PART, PART]}),
    "a name twice": ConfigRecord({"names": ["a", "a"], "records": [PART, PART]}),
    "no header": ConfigRecord({"names": ["a"], "records": [b"x"]}),
    "cut off": ConfigRecord({"names": ["a"], "records": [PART[:-1]]}),
    "another type": ConfigRecord({"names": ["a"], "records": [RecordDict({}).deflate()]}),
    "a bundle in a bundle": ConfigRecord({"names": [BUNDLE], "records": [PART]}),
    "the name of a record beside it": ConfigRecord({"names": ["b"], "records": [PART]}),
}


@pytest.mark.parametrize("record", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_bundle_stays_as_it_is_so_its_records_are_missing(record: ConfigRecord | ArrayRecord) -> None:
    content = RecordDict({BUNDLE: record, "b": ConfigRecord({"n": 2})})
    found = unbundle_records(content)
    assert found is content
    assert "a" not in found


@given(st.binary(max_size=200))
def test_no_bytes_of_a_bundle_raise(part: bytes) -> None:
    content = RecordDict({BUNDLE: ConfigRecord({"names": ["a"], "records": [part]})})
    assert set(unbundle_records(content)) <= {BUNDLE, "a"}
