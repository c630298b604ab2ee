"""`fedhealth status`: one look, and an exit code for scripts."""

import json

import pytest

from fedhealth.cli.main import main
from fedhealth.errors import ConfigError, FederationError
from fedhealth.lead.home import LeadHome
from fedhealth.lead.job_store import list_damaged_jobs, save_job
from fedhealth.protocol.job import Job
from tests.conftest import begun


@pytest.fixture(name="run")
def run_(tmp_path):
    run = begun(tmp_path / "run")
    run.append_event("site_failed", round=1, site="south", reason="DataError (see the site's own log)")
    return run


@pytest.fixture(name="status")
def status_(monkeypatch, capfd, tmp_path):
    def call(*arguments):
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.setenv("FEDHEALTH_LEAD", str(tmp_path / "lead"))
        monkeypatch.setattr("sys.argv", ["fedhealth", "status", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        shown = capfd.readouterr()
        return stopped.value.code or 0, shown.out + shown.err

    return call


def test_every_state_has_its_exit_code(run, status):
    with run.lock():
        assert status(run.path)[0] == 12
        run.append_event("waiting", needed=1, missing=["south"])
        assert status(run.path)[0] == 13
    code, shown = status(run.path)
    assert code == 14
    assert f"what to do: `fedhealth run resume={run.path}` restarts it." in shown
    run.mark_failed(FederationError("Too few sites.", "Ask them."))
    code, shown = status(run.path)
    assert code == 15
    assert "error: Too few sites." in shown
    run.mark_failed(KeyboardInterrupt())
    assert status(run.path)[0] == 14
    run.mark_completed()
    assert status(run.path)[0] == 0


def test_every_hospital_is_a_line(run, status):
    with run.lock():
        _, shown = status(run.path)
    assert "chest (abc123): running, training" in shown
    assert "rounds completed: 0 of 3" in shown
    lines = shown.splitlines()
    assert any("north" in line and "answered" in line and "took 1.0 s" in line for line in lines)
    assert any("south" in line and "left out" in line and "DataError" in line for line in lines)


def test_what_a_hospital_says_is_neither_markup_nor_a_command_to_the_terminal(run, status):
    reason = "[/red]\x1b[2J\x1b]0;owned\x07\u202e"
    run.append_event("handshake", site="west[/b]", reasons=[reason], versions="")
    run.append_event("handshake", site="east")
    with run.lock():
        _, shown = status(run.path)
    assert "[/red]\\u001b[2J\\u001b]0;owned\\u0007\\u202e" in shown
    assert "\x07" not in shown


def test_damaged_events_are_left_out(run, status):
    with (run.path / "events.jsonl").open("a") as file:
        file.write("[" * 100_000 + "\n")
    with run.lock():
        assert status(run.path)[0] == 12


def test_a_damaged_order_hides_no_other(run, status, tmp_path):
    home = LeadHome(tmp_path / "lead")
    save_job(home, Job("abc123", (), "", str(run.path)))
    (home.runs / "x1.json").write_bytes(b"\xff{")
    (home.runs / "x2.json").symlink_to("nowhere")
    (home.runs / "x3.json").mkdir()
    run.mark_completed()
    assert status("abc")[0] == 0
    assert sorted(path.name for path in list_damaged_jobs(home)) == ["x1.json", "x2.json", "x3.json"]


def test_programs_get_the_same_as_json(run, status):
    printed = json.loads(status(run.path, "--json")[1])
    assert (printed["state"], printed["round"], printed["rounds"], printed["waiting_for"]) == ("interrupted", 1, 3, [])
    assert printed["sites"]["south"]["errors"] == {"DataError": 1}
    assert printed["error"] == "south was left out of round 1: DataError (see the site's own log)"


def test_a_run_in_the_hospitals_has_a_name(run, status, tmp_path):
    save_job(LeadHome(tmp_path / "lead"), Job("abc123", (), "", str(run.path)))
    run.mark_completed()
    assert status("abc")[0] == 0
    code, shown = status("xyz")
    assert code == ConfigError.exit_code
    assert "xyz contains no run" in shown
