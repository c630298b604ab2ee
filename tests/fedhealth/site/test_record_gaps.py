"""A log that was removed or begun again does not look like a clean one, in any view of the records."""

import pytest
from typer.testing import CliRunner

from fedhealth.cli.main import app
from fedhealth.errors import TrustError
from fedhealth.site.audit_log import AuditLog, verify_log
from fedhealth.site.home import SiteHome
from fedhealth.site.record_gaps import find_log_gap
from fedhealth.site.run_history import list_site_runs, read_run_history
from fedhealth.site.web import contents
from fedhealth.utils.hash_chain import get_head_path


@pytest.fixture(name="home")
def home_(tmp_path):
    """An installed hospital that accepted a run, which it has ended by itself."""
    home = SiteHome(tmp_path / "home")
    home.create()
    home.membership.write_bytes(b"{}")
    (home.state / "job_history.json").write_text('{"abcdefgh": {"digest": "0", "seen": 1.0, "ended": 2.0}}')
    log = AuditLog(home.audit)
    log.write("kit installed")
    log.write("accepted", run="abcdefgh", order={})
    log.write("ended", run="abcdefgh", by="expiry")
    return home


def remove_log(home):
    home.audit.unlink()
    get_head_path(home.audit).unlink()


def call(home, *words):
    return CliRunner().invoke(app, ["site", *words, "--home", str(home.path)])


def test_a_whole_log_has_no_gap(home):
    assert read_run_history(home)[1] == []
    assert contents.build_runs(home).lines == ()
    assert contents.build_audit(home).lines[0].startswith("Verified: 3 entries")
    assert call(home, "audit", "verify").exit_code == 0


def test_a_log_that_is_gone_is_said_to_be_gone(home):
    remove_log(home)
    records, gaps = read_run_history(home)
    assert records == []
    assert gaps[0] == f"the audit log {home.audit} is gone: nothing is known here of what this site did and sent"
    assert gaps[1] == "run abcdefgh was accepted here, and has no entry in this audit log"
    assert contents.build_runs(home).lines == tuple(f"Warning: {gap}." for gap in gaps)
    lines = contents.build_audit(home).lines
    assert "is gone" in lines[0]
    assert not any("Verified" in line for line in lines)
    shown = " ".join(call(home, "runs", "list").output.split())
    assert "WARNING: the audit log" in shown
    assert "is gone" in shown
    verified = call(home, "audit", "verify")
    assert isinstance(verified.exception, TrustError)
    assert "is gone" in verified.exception.problem


@pytest.mark.parametrize("left", ["membership", "job history", "study", "lock"])
def test_each_trace_of_work_shows_that_the_log_is_gone(home, left):
    remove_log(home)
    if left != "lock":
        home.audit.with_suffix(".lock").unlink()
    if left != "membership":
        home.membership.unlink()
    if left != "job history":
        (home.state / "job_history.json").unlink()
    if left == "study":
        home.studies.mkdir(parents=True)
        (home.studies / "a.decision.json").write_text("{}")
    assert find_log_gap(home, ()) is not None


def test_a_site_that_has_done_nothing_has_no_gap(home):
    remove_log(home)
    home.audit.with_suffix(".lock").unlink()
    home.membership.unlink()
    (home.state / "job_history.json").unlink()
    assert read_run_history(home) == ([], [])


def test_a_log_that_was_begun_again_says_so_in_every_record(home):
    remove_log(home)
    log = AuditLog(home.audit)
    log.write("started")
    log.write("accepted", run="second", order={})
    [record], gaps = read_run_history(home)
    assert "does not begin with this site's installation" in gaps[0]
    assert "run abcdefgh was accepted here" in gaps[1]
    assert record.gaps == (gaps[0],)
    shown = " ".join(call(home, "runs", "show", "second").output.split())
    assert "WARNING the audit log" in shown
    assert isinstance(call(home, "audit", "verify").exception, TrustError)


def test_what_the_site_ended_was_not_ended_by_the_lead(home):
    [record] = list_site_runs(home)
    assert record.outcome == "ended by expiry"
    shown = " ".join(call(home, "runs", "show", "abcdefgh").output.split())
    assert "ended by this hospital: the time of limits.hours had passed" in shown
    assert "ended by the lead" not in shown


def test_an_end_alone_is_no_record_and_hides_no_gap(home):
    remove_log(home)
    log = AuditLog(home.audit)
    log.write("recovered", run="", statement=0)
    log.write("ended", run="abcdefgh", by="recovery")
    records, gaps = read_run_history(home)
    assert records == []
    assert any("run abcdefgh was accepted here" in gap for gap in gaps)


def test_pausing_is_logged_also_on_the_command_line(home):
    for word in ("pause", "resume"):
        assert call(home, word).exit_code == 0
    assert [(e["event"], e["where"]) for e in verify_log(home.audit)[-2:]] == [
        ("paused", "command line"),
        ("resumed", "command line"),
    ]


def test_a_damaged_log_does_not_stop_a_pause(home):
    home.audit.write_text(home.audit.read_text().replace("abcdefgh", "abcdefgi", 1))
    assert call(home, "pause").exit_code == 0
    assert (home.daemon_folder / "paused").is_file()
