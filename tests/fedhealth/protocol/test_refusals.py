"""What the lead learns of a site's refusal: a listed cause with its fix, or only the kind of an error."""

import pytest

from fedhealth.errors import DataError, TrustError
from fedhealth.protocol.messages import is_error_kind
from fedhealth.protocol.refusals import (
    REFUSALS,
    JobRefusedError,
    build_refusal,
    describe_error,
    explain_error,
    is_lasting_refusal,
)

SECRET = "patient 4711"


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_refusal_travels_as_its_number_and_is_explained_by_the_lead(refusal):
    sent = build_refusal(JobRefusedError(SECRET, SECRET, refusal))
    assert SECRET not in sent.reason
    assert explain_error(sent.code, "forged") == (refusal.problem, refusal.advice)
    assert is_lasting_refusal(sent.code)
    assert describe_error(sent.code, sent.reason).startswith("TrustError (")
    assert not is_error_kind(sent.code, sent.reason)  # a worker, which has the data, cannot send one


def test_codes_and_names_are_all_different():
    sent = [build_refusal(JobRefusedError("", "", refusal)) for refusal in REFUSALS]
    assert len({each.code for each in sent}) == len({each.reason for each in sent}) == len(REFUSALS)


@pytest.mark.parametrize("fault", [DataError(SECRET), TrustError(SECRET), ValueError(SECRET)])
def test_another_fault_travels_as_its_kind(fault):
    sent = build_refusal(fault)
    problem, fix = explain_error(sent.code, sent.reason)
    assert SECRET not in sent.reason
    assert problem == f"it reported {sent.reason}"
    assert "run/site.log" in fix


def test_words_of_a_site_are_not_repeated():
    assert "rm -rf" not in " ".join(explain_error(1008, "rm -rf /"))
    assert "rm -rf" not in describe_error(1008, "rm -rf /")
