"""A site's report to the lead: logged before it leaves, renewed with kit and check, free of what the data say."""

import os
import time

import pytest

from fedhealth.protocol.site_report import SiteReport
from fedhealth.site.audit_log import verify_log
from fedhealth.site.check import check_site as module
from fedhealth.site.check.base import report_failure, report_pass, report_warning
from fedhealth.site.check.check_site import check_site
from fedhealth.site.own_report import SiteReporter, record_check
from tests.fedhealth.site.trust import Consortium


@pytest.fixture(name="home")
def home_(tmp_path):
    consortium = Consortium(tmp_path)
    home = consortium.homes["charite"]
    home.membership.write_bytes(consortium.lead.membership.read_bytes())
    home.policy.write_text("name: charite\nlead: lead.example:9092\ndata: {chest: {dataset: d, root: /nowhere}}\n")
    return home


def logged(home):
    return [entry for entry in verify_log(home.audit) if entry["event"] == "reported"]


def test_it_is_logged_once_before_it_leaves(home):
    reporter = SiteReporter(home)
    reports = {reporter() for _ in range(5)}
    assert [SiteReport.parse(each).kit for each in reports] == [1]
    [entry] = logged(home)
    assert (entry["kit"], entry["result"]) == (1, "none")


def test_a_new_check_is_reported(home):
    reporter = SiteReporter(home)
    before = SiteReport.parse(reporter())
    record_check(home, [report_pass("kit", ""), report_warning("TLS", "", "")])
    after = SiteReport.parse(reporter())
    assert (before.result, after.result) == ("none", "WARN")
    assert abs(after.checked - time.time()) < 60
    assert len(logged(home)) == 2


@pytest.mark.parametrize("content", ["{", "[]", '{"time": "x", "result": "PASS"}', '{"time": 1, "result": "bad"}'])
def test_a_note_that_cannot_be_read_counts_as_no_check(home, content):
    home.last_check.write_text(content)
    report = SiteReport.parse(SiteReporter(home)())
    assert (report.checked, report.result) == (0, "none")


def test_data_and_budget_decide_nothing_of_what_is_reported(home, monkeypatch):
    """Two hospitals that differ in their data alone report the same."""
    monkeypatch.setattr(module, "check_installation", lambda: iter([report_pass("package", "")]))
    monkeypatch.setattr(module, "_check_connection", lambda *_: iter([report_pass("kit", "")]))
    seen = []
    for outcome in (report_pass, lambda *_: report_failure("x", "", "")):
        for name in ("check_machine", "check_budget", "check_log", "check_own_state", "_check_data"):
            monkeypatch.setattr(module, name, lambda *_, outcome=outcome: iter([outcome("x", "")]))
        home.last_check.unlink(missing_ok=True)
        list(check_site(home))
        seen.append(SiteReport.parse(SiteReporter(home)()).result)
        os.utime(home.last_check, (1, 1))
    assert seen == ["PASS", "PASS"]


def test_the_report_is_written_before_any_data_is_read(home, monkeypatch):
    monkeypatch.setattr(module, "check_installation", lambda: iter([report_pass("package", "")]))
    monkeypatch.setattr(module, "_check_connection", lambda *_: iter([report_failure("lead", "", "")]))
    checks = check_site(home)
    while next(checks).name != "lead":
        pass
    next(checks)
    assert home.last_check.is_file()
