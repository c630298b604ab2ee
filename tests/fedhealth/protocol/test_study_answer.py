"""A hospital's answer to a study in its report: closed lists of words."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhealth.protocol.study_answer import (
    ANSWER_TEXTS,
    REASON_TEXTS,
    REPORT_FORM,
    RefusalReason,
    ReportedAnswer,
    StudyAnswer,
)

DIGEST = "0123456789abcdef" * 4


@given(st.sampled_from(StudyAnswer), st.none() | st.sampled_from(RefusalReason))
def test_what_is_written_is_read(answer, reason):
    reported = ReportedAnswer.build(DIGEST, answer, reason)
    assert re.fullmatch(REPORT_FORM, reported.dumps())
    assert ReportedAnswer.parse(reported.dumps()) == reported
    assert reported.is_about(DIGEST)
    assert not reported.is_about("f" + DIGEST[1:])


@pytest.mark.parametrize("text", ["", ":", "0123456789abcdef:yes", "0123456789abcdef:declined:patient 7", "0:approved"])
def test_other_words_have_another_form(text):
    assert re.fullmatch(REPORT_FORM, text) is None


def test_every_word_has_a_text():
    assert (set(ANSWER_TEXTS), set(REASON_TEXTS)) == (set(StudyAnswer), set(RefusalReason))
    declined = ReportedAnswer.build(DIGEST, StudyAnswer.declined, RefusalReason.permit)
    assert declined.describe_answer() == "declined: a permit is missing or has ended"
