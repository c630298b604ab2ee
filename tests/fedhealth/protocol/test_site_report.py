"""A site's report: what is written is read, anything else is nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhealth.protocol.site_report import SiteReport
from fedhealth.protocol.study_answer import MAX_REPORTED_STUDIES, RefusalReason, ReportedAnswer, StudyAnswer

REPORT = SiteReport("0.1.0", "ab" * 32, 7, 1_700_000_000, "PASS")
DECLINED = ReportedAnswer.build("cd" * 32, StudyAnswer.declined, RefusalReason.purpose)


@given(st.integers(0, 10**9 - 1), st.integers(0, 10**11 - 1), st.sampled_from(["PASS", "WARN", "FAIL", "none"]))
def test_what_is_written_is_read(kit, checked, result):
    report = SiteReport("1.20.3rc1", "0f" * 32, kit, checked, result)
    assert SiteReport.parse(report.dumps()) == report


@pytest.mark.parametrize("count", [1, 2, MAX_REPORTED_STUDIES])
def test_answers_to_studies_are_read_in_their_order(count):
    told = (ReportedAnswer.build("00" * 32, StudyAnswer.approved), DECLINED) * MAX_REPORTED_STUDIES
    report = SiteReport("0.1.0", "ab" * 32, 7, studies=told[:count])
    assert SiteReport.parse(report.dumps()) == report
    assert report.dumps().isascii()
    assert SiteReport.parse(SiteReport("0.1.0", "ab" * 32, 7, studies=told).dumps()) is None


@given(st.text())
def test_any_other_text_is_no_report(text):
    assert SiteReport.parse(text) is None


@pytest.mark.parametrize(
    "text",
    [
        REPORT.dumps() + " ",
        REPORT.dumps() + "\n",
        REPORT.dumps().replace("PASS", "[red]"),
        REPORT.dumps().replace("kit=7", "kit=-1"),
        REPORT.dumps().replace("kit=7", "kit=" + "9" * 5000),
        REPORT.dumps().replace("0.1.0", "\x1b[2J"),
        REPORT.dumps() + " studies=",
        REPORT.dumps() + f" studies={DECLINED.dumps()},",
        REPORT.dumps() + f" studies={DECLINED.dumps()}".replace("purpose", "[red]"),
    ],
)
def test_a_report_that_was_tampered_with_is_none(text):
    assert SiteReport.parse(text) is None
