"""A site's report to the lead: logged before it leaves, renewed with kit and check, free of what the data say."""

import os
import time
from dataclasses import replace

import pytest

from fedhealth.protocol.site_report import SiteReport
from fedhealth.protocol.study_answer import MAX_REPORTED_STUDIES, RefusalReason, ReportedAnswer, StudyAnswer
from fedhealth.site.audit_log import verify_log
from fedhealth.site.check import check_site as module
from fedhealth.site.check.base import report_failure, report_pass, report_warning
from fedhealth.site.check.check_site import check_site
from fedhealth.site.own_report import SiteReporter, record_check
from fedhealth.site.study_approval import decline_study
from fedhealth.site.study_store import StudyStore
from tests.clients.studies import make_study, send_study
from tests.fedhealth.site.trust import Consortium


@pytest.fixture(name="consortium")
def consortium_(tmp_path):
    return Consortium(tmp_path)


@pytest.fixture(name="home")
def home_(consortium):
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


def test_answers_to_studies_are_reported_and_notes_are_not(consortium, home):
    reporter = SiteReporter(home)
    assert SiteReport.parse(reporter()).studies == ()
    study = send_study(consortium, home, make_study(("experiment=demo", "data.sites=[charite,klinikum]")))
    assert SiteReport.parse(reporter()).studies == (ReportedAnswer.build(study.digest, StudyAnswer.undecided),)
    decline_study(study, home, RefusalReason.permit, "patient 4711 objects", "Dr. Noor")
    text = reporter()
    declined = ReportedAnswer.build(study.digest, StudyAnswer.declined, RefusalReason.permit)
    assert SiteReport.parse(text).studies == (declined,)
    assert "objects" not in text
    assert "Noor" not in text
    assert len(logged(home)) == 3
    assert logged(home)[-1]["studies"][0]["answer"] == "declined"


def test_only_the_last_open_studies_are_reported(consortium, home):
    words = ("experiment=demo", "data.sites=[charite,klinikum]")
    base = make_study(words)
    days = [f"2026-01-{number:02d}" for number in range(1, MAX_REPORTED_STUDIES + 3)]
    sent = [send_study(consortium, home, replace(base, name=f"study-{day}", first_day=day)) for day in reversed(days)]
    send_study(consortium, home, replace(base, name="closed", closed=True, first_day="2027-01-01"))
    told = SiteReport.parse(SiteReporter(home)()).studies
    assert [each.study for each in reversed(told)] == [each.digest[:16] for each in sent[:MAX_REPORTED_STUDIES]]


def test_a_damaged_study_hides_the_answers_and_stops_nothing(consortium, home):
    study = send_study(consortium, home, make_study(("experiment=demo", "data.sites=[charite,klinikum]")))
    (home.studies / f"{study.digest}.decision.json").write_text("{")
    assert SiteReport.parse(SiteReporter(home)()).studies == ()
    assert StudyStore(home).load_studies()
