"""Runs that nobody works on go on; those that somebody works on, that ended, or that are no runs are left alone."""

from dataclasses import replace
from pathlib import Path

import pytest

from fedhealth.lead import run_recovery
from fedhealth.lead.home import LeadHome
from fedhealth.lead.job_store import save_job
from fedhealth.protocol.budget_request import BudgetRequest
from fedhealth.protocol.job import Job
from fedhealth.runs.run_dir import RunDir


class Process:
    """A program that was started and goes on."""

    def poll(self):
        return None


@pytest.fixture
def started(monkeypatch):
    commands = []
    monkeypatch.setattr(run_recovery, "_POLL_SECONDS", -1.0)
    monkeypatch.setattr(run_recovery, "_ORPHANED_SECONDS", 0.0)
    monkeypatch.setattr(
        run_recovery.subprocess, "Popen", lambda command, **how: commands.append(command[-1]) or Process()
    )
    return commands


@pytest.fixture
def home(tmp_path):
    (tmp_path / "lead").mkdir()
    return LeadHome(tmp_path / "lead")


def job(home, folder, **changes):
    run = RunDir(folder)
    run.create(run=folder.name)
    save_job(home, replace(Job(folder.name, ("seed=1",), "0" * 64, str(folder)), **changes))
    return run


def test_a_run_without_anybody_goes_on_once(home, tmp_path, started):
    run = job(home, tmp_path / "one")
    watch = run_recovery.RunRecovery(home)
    watch.resume_orphaned_runs()
    watch.resume_orphaned_runs()
    assert started == [f"resume={run.path}"]


def test_it_is_given_up_after_some_tries(home, tmp_path, started, monkeypatch):
    monkeypatch.setattr(Process, "poll", lambda self: 1)
    job(home, tmp_path / "one")
    watch = run_recovery.RunRecovery(home)
    for _ in range(10):
        watch.resume_orphaned_runs()
    assert len(started) == 3


@pytest.mark.parametrize("state", ["completed", "failed", "stopped"])
def test_what_ended_is_left_to_people(home, tmp_path, started, state):
    job(home, tmp_path / "one").update_info(state=state)
    run_recovery.RunRecovery(home).resume_orphaned_runs()
    assert not started


def test_a_run_that_somebody_holds_is_left_alone(home, tmp_path, started):
    run = job(home, tmp_path / "one")
    with run.lock():
        run_recovery.RunRecovery(home).resume_orphaned_runs()
    assert not started


def test_whoever_goes_on_by_hand_is_not_overtaken(home, tmp_path, started, monkeypatch):
    monkeypatch.setattr(run_recovery, "_ORPHANED_SECONDS", 60.0)
    job(home, tmp_path / "one")
    run_recovery.RunRecovery(home).resume_orphaned_runs()
    assert not started


def test_a_question_of_a_sweep_is_no_run(home, tmp_path, started):
    job(home, tmp_path / "one", budget_request=BudgetRequest("0" * 12, 1.0, ()))
    run_recovery.RunRecovery(home).resume_orphaned_runs()
    assert not started


def test_a_folder_that_was_removed_is_no_run(home, tmp_path, started):
    save_job(home, Job("gone", ("seed=1",), "0" * 64, str(Path(tmp_path) / "gone")))
    run_recovery.RunRecovery(home).resume_orphaned_runs()
    assert not started
