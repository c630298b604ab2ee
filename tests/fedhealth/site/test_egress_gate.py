"""The one door: what was not predicted never leaves, and the log says that it was tried, without saying what."""

import json
import zlib

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from fedhealth.errors import PrivacyError
from fedhealth.protocol.array_codec import PACKED, SERIAL, SMALL, get_packed_bytes, pack_arrays, to_array_record
from fedhealth.protocol.count_codec import COMPRESSED, pack_counts
from fedhealth.protocol.messages import (
    ACCEPTANCE,
    HANDSHAKE,
    STATISTICS,
    TRAIN,
    UPDATE,
    Acceptance,
    Directive,
    get_versions,
)
from fedhealth.site.egress_gate import (
    ArrayRecordSchema,
    ConfigRecordSchema,
    CountRecordSchema,
    EgressGate,
    ReleaseReceipt,
    check_error,
    compute_record_digest,
    make_acceptance_schema,
)
from fedhealth.site.policy import SiteLimits
from fedhealth.site.traffic_quota import TrafficQuota

LIMITS = SiteLimits(records=(ACCEPTANCE, UPDATE, STATISTICS), largest_change=100.0)
SECRET = "Mrs Example, born 1950"
BIAS = {"fusion.bias": np.ones(2, np.float32)}
FORMS = {
    UPDATE: ArrayRecordSchema({"fusion.weight": (2, 3), "fusion.bias": (2,)}, "<f4"),
    STATISTICS: CountRecordSchema({"train.examples": (1,)}),
}
EXAMPLES = {"train.examples": np.array([7])}
HISTOGRAM = {"test.positives": np.eye(1, 256, 9, dtype=np.int64)[0]}


def directive(number=1):
    return Directive("run", "0" * 64, number, number, 0, ("north",))


def good():
    update = {"fusion.weight": np.ones((2, 3), np.float32), "fusion.bias": np.zeros(2, np.float32)}
    return RecordDict({UPDATE: pack_arrays(update), STATISTICS: pack_counts({"train.examples": np.array([7])})})


@pytest.fixture(name="entries")
def entries_():
    return []


@pytest.fixture(name="gate")
def gate_(entries):
    return EgressGate(LIMITS, lambda event, **fields: entries.append({"event": event, **fields}))


def test_what_was_predicted_leaves_and_is_logged_with_its_digest(gate, entries):
    gate.check(TRAIN, directive(), good(), FORMS)
    (entry,) = entries
    assert entry["event"] == "left"
    assert entry["sha256"] == compute_record_digest(good())
    assert entry["records"] == [STATISTICS, UPDATE]
    assert entry["bytes"] > 40


def test_without_a_log_nothing_is_hashed_and_the_same_is_blocked(entries):
    gate = EgressGate(LIMITS, lambda event, **fields: entries.append({"event": event, **fields}), is_audited=False)
    gate.check(TRAIN, directive(), good(), FORMS)
    with pytest.raises(PrivacyError):
        gate.check(TRAIN, directive(), changed(surprise=ConfigRecord({"a": 1})), FORMS)
    assert [(entry["event"], "sha256" in entry) for entry in entries] == [("left", False), ("refused", False)]


def changed(**records):
    content = good()
    for name, record in records.items():
        content[name] = record
    return content


def packed(content):
    return ConfigRecord({PACKED: content})


def large(content):
    return ArrayRecord({PACKED: Array("uint8", (len(content),), SERIAL, content)})


def spaced(content):
    """Return the same arrays with more room in the header than there has to be."""
    length = int.from_bytes(content[:8], "little")
    return (length + 8).to_bytes(8, "little") + content[8 : 8 + length] + b" " * 8 + content[8 + length :]


def reordered():
    """Return both arrays, listed the other way round."""
    header = {
        "fusion.weight": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "fusion.bias": {"dtype": "F32", "shape": [2], "data_offsets": [24, 32]},
    }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + bytes(32)


LARGE = save({"fusion.bias": np.ones(SMALL, np.float32)})

HOSTILE = {
    "an unlisted record": changed(metrics=ConfigRecord({"note": SECRET})),
    "a record named by a patient": RecordDict({SECRET: ConfigRecord({"x": 1})}),
    "an extra metric": changed(extra=MetricRecord({"auc": 0.9})),
    "a record of another kind": changed(update=ConfigRecord({"fusion.weight": SECRET})),
    "free text among the arrays": changed(update=pack_arrays({SECRET: np.ones(2, np.float32)})),
    "an oversized array": changed(update=pack_arrays({"fusion.bias": np.ones(2000, np.float32)})),
    "another type": changed(update=pack_arrays({"fusion.bias": np.ones(2, np.float64)})),
    "the same bytes in another shape": changed(update=pack_arrays({"fusion.weight": np.ones((3, 2), np.float32)})),
    "arrays that are not packed": changed(update=to_array_record({"fusion.bias": np.ones(2, np.float32)})),
    "an array beside the packed ones": changed(update=ConfigRecord({**pack_arrays(BIAS), SECRET: b"x"})),
    "an array beside a large one": changed(update=ArrayRecord({**large(LARGE), SECRET: Array(BIAS["fusion.bias"])})),
    "few bytes as if they were many": changed(update=large(save(BIAS))),
    "many bytes as if they were few": changed(update=packed(LARGE)),
    "words instead of bytes": changed(update=ConfigRecord({PACKED: SECRET})),
    "something behind the arrays": changed(update=packed(save(BIAS) + SECRET.encode())),
    "words for whoever reads the file": changed(update=packed(save(BIAS, metadata={"patient": SECRET}))),
    "a space in the list of arrays": changed(update=packed(spaced(save(BIAS)))),
    "arrays listed in another order": changed(update=packed(reordered())),
    "another serialisation": changed(update=ArrayRecord({PACKED: Array("uint8", (len(LARGE),), "pickle", LARGE)})),
    "another type of packed bytes": changed(update=ArrayRecord({PACKED: Array(SECRET, (len(LARGE),), SERIAL, LARGE)})),
    "no list of arrays": changed(update=packed(SECRET.encode())),
    "a number that is none": changed(update=pack_arrays({"fusion.bias": np.array([np.nan, 0], np.float32)})),
    "infinity": changed(update=pack_arrays({"fusion.bias": np.array([0, -np.inf], np.float32)})),
    "a number that is none, in the second array": changed(
        update=pack_arrays(
            {"fusion.bias": np.ones(2, np.float32), "fusion.weight": np.full((2, 3), np.nan, np.float32)}
        )
    ),
    "a few counts that are compressed": changed(
        statistics=ConfigRecord({COMPRESSED: zlib.compress(get_packed_bytes(pack_counts(EXAMPLES)))})
    ),
    "counts in another shape": changed(statistics=pack_counts({"train.examples": np.array([7, 7])})),
    "words behind the counts": changed(
        statistics=ConfigRecord({key: value + SECRET.encode() for key, value in good()[STATISTICS].items()})
    ),
    "free text among the counts": changed(statistics=pack_counts({SECRET: np.array([7])})),
    "a huge change": changed(update=pack_arrays({"fusion.bias": np.array([101, 0], np.float32)})),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_nothing_else_leaves_and_the_log_holds_no_word_of_it(gate, entries, what):
    with pytest.raises(PrivacyError) as refused:
        gate.check(TRAIN, directive(), HOSTILE[what], FORMS)
    (entry,) = entries
    assert entry["event"] == "refused"
    assert "Example" not in json.dumps(entry) + str(refused.value)


def test_many_counts_leave_compressed_only(gate, entries):
    forms = {**FORMS, STATISTICS: CountRecordSchema({"test.positives": (256,)})}
    gate.check(TRAIN, directive(), changed(statistics=pack_counts(HISTOGRAM)), forms)
    with pytest.raises(PrivacyError):
        gate.check(TRAIN, directive(2), changed(statistics=pack_arrays(HISTOGRAM)), forms)
    assert [entry["event"] for entry in entries] == ["left", "refused"]


def test_a_record_that_the_policy_does_not_list_stays(entries):
    gate = EgressGate(SiteLimits(records=(STATISTICS,)), lambda event, **fields: entries.append(event))
    with pytest.raises(PrivacyError, match="not allowed by the policy"):
        gate.check(TRAIN, directive(), good(), FORMS)
    assert entries == ["refused"]


def test_a_round_may_send_so_many_bytes_and_no_more(tmp_path, entries):
    gate = EgressGate(LIMITS, lambda event, **fields: entries.append(event), TrafficQuota(tmp_path / "run", 400))
    size = sum(record.count_bytes() for record in good().values())
    assert 200 < size < 400
    gate.check(TRAIN, directive(), good(), FORMS)
    with pytest.raises(PrivacyError, match="more than 400 bytes"):
        gate.check(TRAIN, directive(), good(), FORMS)
    gate.check(TRAIN, directive(2), good(), FORMS)
    assert entries == ["left", "refused", "left"]


def test_an_acceptance_says_what_is_listed_and_nothing_else(gate):
    form = {ACCEPTANCE: make_acceptance_schema("north")}

    def said(**fields):
        record = Acceptance("north", (), {"shared": 8.0}, get_versions()).record()
        return RecordDict({ACCEPTANCE: ConfigRecord({**dict(record), **fields})})

    gate.check(HANDSHAKE, directive(), said(), form)
    gate.check(HANDSHAKE, directive(), said(reasons=["secure aggregation is required here"]), form)
    hostile = [
        {"site": SECRET},
        {"versions": SECRET},
        {"reasons": [SECRET]},
        {"reasons": ["the override x is not accepted"] * 51},
        {"towers": [SECRET]},
        {"weights": [1e300]},
        {"exchange": -1},
        {"remark": SECRET},
    ]
    for fields in hostile:
        with pytest.raises(PrivacyError):
            gate.check(HANDSHAKE, directive(), said(**fields), form)


@given(st.text(max_size=60))
def test_no_free_text_passes_a_form_of_words(text):
    form = ConfigRecordSchema({"site": lambda value: value == "north"})
    faults = list(form.find_violations(ConfigRecord({"site": text}), LIMITS))
    assert bool(faults) == (text != "north")


def test_an_error_names_its_kind_and_nothing_else(entries):
    log = lambda event, **fields: entries.append({"event": event, **fields})  # noqa: E731
    check_error(TRAIN, 1003, "DataError", log)
    for code, reason in ((1003, SECRET), (1, "DataError"), (1003, "DataError: 4711")):
        with pytest.raises(PrivacyError):
            check_error(TRAIN, code, reason, log)
    assert [entry["event"] for entry in entries] == ["failed", "refused", "refused", "refused"]
    assert "Example" not in json.dumps(entries)


@pytest.mark.parametrize("recorded", [True, False])
def test_private_words_leave_only_with_a_recorded_release(recorded):
    entries = []
    gate = EgressGate(LIMITS, lambda event, **fields: entries.append({"event": event, **fields}))
    receipt = ReleaseReceipt("ab" * 32, lambda: recorded)
    if recorded:
        gate.check(TRAIN, directive(), good(), FORMS, receipt)
        assert entries[0]["release"] == "ab" * 32
    else:
        with pytest.raises(PrivacyError, match="no release of these words"):
            gate.check(TRAIN, directive(), good(), FORMS, receipt)
        assert entries[0]["event"] == "refused"
