"""What a site says in its acceptance is checked by the lead."""

import math

import pytest
from flwr.app import ConfigRecord, RecordDict

from fedhealth.errors import FederationError
from fedhealth.protocol.messages import ACCEPTANCE, Acceptance, PrivacyClaim, compute_record_size


def make_record(**fields):
    content = {"site": "a", "reasons": [], "towers": ["shared"], "weights": [1.0], "versions": "", "exchange": 0}
    content |= {"reserved": 0.0, "epsilon": 0.0, "delta": 0.0, "noise_multiplier": 0.0}
    return RecordDict({ACCEPTANCE: ConfigRecord(content | fields)})


@pytest.mark.parametrize(
    "fields",
    [{"exchange": math.inf}, {"exchange": "x\x1b"}, {"weights": []}, {"reserved": math.nan}, {"epsilon": math.inf}],
)
def test_a_malformed_acceptance_is_one_kind_of_error(fields):
    with pytest.raises(FederationError) as refused:
        Acceptance.parse(make_record(**fields))
    assert refused.value.problem.isprintable()


def test_what_a_site_says_of_itself_is_short():
    found = Acceptance.parse(make_record(site="a" * 10**6 + "\x1b", versions="\x1b" * 10**6))
    assert len(found.site) < 1100
    assert len(found.versions) < 10_000
    assert found.versions.isprintable()


def test_reasons_are_short_and_show_every_character():
    found = Acceptance.parse(make_record(reasons=["\x1b[2J" + "x" * 10_000] * 1000))
    assert len(found.reasons) <= 50
    assert found.privacy == PrivacyClaim()
    assert all(len(reason) < 1100 and reason.isprintable() for reason in found.reasons)


def test_the_bytes_in_a_list_count_as_they_are_and_not_as_they_are_printed():
    """A list of messages was printed to be counted: a twentieth of a round's time, and up to four times the bytes."""
    assert compute_record_size(ConfigRecord({"links": [bytes(100), bytes(50)], "head": bytes(7)})) == 5 + 150 + 4 + 7
    assert compute_record_size(ConfigRecord({"a": [1, 23], "b": [], "c": ["x"], "d": 1.5})) == 4 + 7 + 2 + 5 + 3
