"""Every run has an honest state: who is waited for, what ended it, what to do."""

import pytest

from fedhealth.errors import ConfigError, FederationError
from fedhealth.lead.connect_control import query_server_status
from fedhealth.runs.run_dir import RunDir
from fedhealth.runs.run_status import LEAD_SERVER, get_run_status
from tests.conftest import begun


def nobody(run):
    raise AssertionError("no server is asked about a run on this machine")


@pytest.fixture
def run(tmp_path):
    return begun(tmp_path / "run")


def test_a_running_one_says_who_is_still_working(run):
    with run.lock():
        found = get_run_status(run, nobody)
    assert (found.run, found.name, found.state, found.waiting_for) == ("abc123", "chest", "running", ("south",))
    assert (found.error, found.advice) == ("", "")


def test_one_that_nobody_holds_was_interrupted_and_can_go_on(run):
    found = get_run_status(run, nobody)
    assert (found.state, found.waiting_for) == ("interrupted", ())
    assert found.advice == f"`fedhealth run resume={run.path}` restarts it."
    run.append_event("round_completed", round=1, seconds=2.0, sites=["north"], pooled={})
    assert get_run_status(run, nobody).advice.endswith("resumes it after round 1.")


def test_a_waiting_one_names_the_missing_hospitals(run):
    run.append_event("waiting", needed=1, missing=["south"])
    with run.lock():
        found = get_run_status(run, nobody)
    assert (found.state, found.waiting_for) == ("waiting", ("south",))
    assert "Ask south" in found.advice


def test_a_failed_one_says_why_and_what_to_do(run):
    run.mark_failed(FederationError("Too few sites.", "Ask them."))
    found = get_run_status(run, nobody)
    assert (found.state, found.error, found.waiting_for) == ("failed", "Too few sites.", ())
    assert found.advice.startswith("Ask them. `fedhealth run resume=")


def test_a_stopped_and_a_completed_one(run):
    run.mark_failed(KeyboardInterrupt())
    assert get_run_status(run, nobody).state == "stopped"
    run.mark_completed()
    found = get_run_status(run, nobody)
    assert (found.state, found.advice) == ("completed", f"See its report: {run.path / 'report.html'}.")


@pytest.mark.parametrize(
    ("said", "state", "waiting_for"),
    [
        ("running", "running", ("south",)),
        ("pending", "running", ("south",)),
        ("away", "waiting", (LEAD_SERVER,)),
        ("finished:failed", "interrupted", ()),
        ("finished:completed", "interrupted", ()),
    ],
)
def test_in_the_hospitals_the_leads_server_knows(run, said, state, waiting_for):
    run.update_info(flower_run="7")
    found = get_run_status(run, lambda run: said)
    assert (found.state, found.waiting_for) == (state, waiting_for)


def test_a_run_in_the_hospitals_goes_on_when_its_terminal_was_stopped(run):
    run.update_info(flower_run="7")
    run.mark_failed(KeyboardInterrupt())
    found = get_run_status(run, lambda run: "running")
    assert (found.state, found.waiting_for, found.error) == ("running", ("south",), "")
    assert get_run_status(run, lambda run: "finished:stopped").state == "stopped"
    assert get_run_status(run, lambda run: "away").state == "stopped"


def test_a_server_that_is_not_there_is_away(run, tmp_path):
    run.update_info(flower_run="7")
    (run.path / "config.yaml").write_text(f"runtime:\n  home: {tmp_path / 'nowhere'}\n")
    assert get_run_status(run, query_server_status).waiting_for == (LEAD_SERVER,)


def test_no_run_is_said(tmp_path):
    with pytest.raises(ConfigError, match="contains no run"):
        get_run_status(RunDir(tmp_path), nobody)
