"""What the lead's people see of the runs that were started there, also while the server is down."""

import json

import pytest

from fedhealth.cli.main import main
from fedhealth.lead.home import LeadHome
from fedhealth.lead.job_store import save_job
from fedhealth.protocol.budget_request import BudgetRequest, PlannedRun
from fedhealth.protocol.job import Job
from tests.conftest import begun


@pytest.fixture(name="said")
def said_(monkeypatch, capfd, tmp_path):
    run, home = begun(tmp_path / "run"), LeadHome(tmp_path / "lead")
    (run.path / "fedhealth.log").write_text("round 1\n")
    planned = PlannedRun("abcdefgh", (), "0" * 64)
    save_job(home, Job("abc", (), "", str(run.path)))
    save_job(
        home, Job("abd", (), "", str(tmp_path / "sweep"), budget_request=BudgetRequest("sweepsweep", 1.0, (planned,)))
    )
    save_job(home, Job("bcd", (), "", str(tmp_path / "gone")))

    def call(*arguments):
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.setattr("sys.argv", ["fedhealth", "lead", *arguments, "--home", str(home.path)])
        with pytest.raises(SystemExit) as stopped:
            main()
        return stopped.value.code, capfd.readouterr()

    return call


def test_runs_are_listed_and_told_from_reservations(said):
    _, shown = said("runs")
    rows = {line.split()[0]: line for line in shown.out.splitlines() if line.strip()}
    assert "running" in rows["abc"]
    assert "reservation of a sweep" in rows["abd"]
    assert "gone" in rows["bcd"]


def test_programs_get_the_runs_as_json(said):
    listed = {each["run"]: each for each in json.loads(said("runs", "--json")[1].out)}
    assert (listed["abc"]["state"], listed["abd"]["state"]) == ("running", "reservation of a sweep")
    assert listed["abc"].keys() == {"run", "state", "started", "folder"}


def test_the_beginning_of_an_id_names_a_run_where_it_is_the_only_one(said):
    assert said("logs", "abc")[1].out == "round 1\n"
    for prefix, count in (("ab", 2), ("x", 0)):
        code, shown = said("logs", prefix)
        assert code == 2
        assert f"'{prefix}' matches {count} runs" in shown.err
