"""Grids through Hydra: what fails does not stop them, what was killed is taken up, what is complete is left."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from fedhealth.experiment.run_spec import RunSpec
from fedhealth.experiment.sweep_job import run_sweep_job
from fedhealth.experiment.sweep_reserve import RESERVATION_DIR
from fedhealth.privacy.accounting.ledger import verify_ledger
from fedhealth.privacy.accounting.ledger_folder import get_ledger_path
from fedhealth.privacy.accounting.reservations import find_active_reservations
from fedhealth.runs.run_dir import RunDir


def states(folder):
    return {run.parent.name: json.loads(run.read_text())["state"] for run in folder.glob("*/run.json")}


def test_a_failed_run_does_not_stop_the_others_and_is_done_again_alone(
    fedhealth, tiny_overrides, good_hospitals, tmp_path
):
    overrides = [*tiny_overrides(good_hospitals), "strategy.rounds=1"]
    # one of the learning rates is impossible
    code, said = fedhealth(
        "run", "--multirun", *overrides, "training.optimizer.lr=0.01,-1,0.02", "hydra.sweep.dir=sweep"
    )
    folder = tmp_path / "sweep"
    assert code == 10, said
    assert states(folder) == {"0": "completed", "1": "failed", "2": "completed"}
    assert "3 runs in sweep" in said
    assert "1 of 3 runs did not complete: 1." in said
    assert (folder / "compare.html").is_file()
    before = {name: (folder / name / "model.safetensors").stat().st_mtime_ns for name in "02"}
    code, said = fedhealth("run", "resume=sweep")
    assert code == 10
    assert said.count("kept") == 2
    assert before == {name: (folder / name / "model.safetensors").stat().st_mtime_ns for name in "02"}


def test_what_a_private_sweep_will_spend_is_said_first(fedhealth, tiny_overrides, good_hospitals):
    overrides = [*tiny_overrides(good_hospitals), "data.site_column=absent"]
    _, said = fedhealth("run", "--multirun", *overrides, "privacy=none,patient", "seed=1,2")
    assert "4 runs in multirun/" in said
    assert "2 of them with differential privacy: together at most epsilon 16 at delta 2e-6 for each patient" in said


@pytest.mark.parametrize(
    "overrides",
    [
        ("--multirun", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "seed=1,2"),
        ("sweep=search", "sweep.workers=2"),
    ],
)
def test_hospitals_are_not_asked_for_two_runs_at_once(fedhealth, overrides):
    code, said = fedhealth("run", "runtime=deployment", "data.sites=[a,b]", *overrides)
    assert code == 2
    assert "Hospitals work on one run at a time." in said


def test_a_sweep_goes_on_from_its_own_directory_only(fedhealth, tiny_overrides, good_hospitals, tmp_path, monkeypatch):
    fedhealth("run", "--multirun", *tiny_overrides(good_hospitals), "data.site_column=absent", "hydra.sweep.dir=sweep")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    code, said = fedhealth("run", f"resume={tmp_path / 'sweep'}")
    assert code == 2
    assert "Resume it from that directory." in said


def test_a_directory_with_another_run_is_refused(tiny_overrides, good_hospitals, tmp_path):
    overrides, run = [*tiny_overrides(good_hospitals), "strategy.rounds=1"], RunDir(tmp_path / "run")
    run.create(digest="of something else")
    ended = run_sweep_job(RunSpec.compose(overrides, run))
    assert ended.state == "failed"
    assert "holds another run than" in ended.problem


def test_a_search_within_a_grid_is_refused(tmp_path):
    overrides = ["data.root=x", "sweep=search"]
    assert "no run of a sweep" in run_sweep_job(RunSpec.compose(overrides, RunDir(tmp_path / "run"))).problem


def test_virtual_hospitals_reserve_a_sweep_and_take_back_what_it_did_not_use(
    fedhealth, tiny_overrides, good_hospitals, tmp_path
):
    overrides = [*tiny_overrides(good_hospitals), "strategy.rounds=1", "privacy=patient_small", "privacy.delta=1e-4"]
    overrides += ["privacy.lifetime_epsilon=6", "privacy.epsilon=2", "hydra.sweep.dir=sweep"]
    code, said = fedhealth("run", "--multirun", *overrides, "training.optimizer.lr=0.01,-1")
    assert code == 10, said  # the second one cannot start
    assert "2 of them with differential privacy: together at most epsilon 4" in said
    reserved = r"reserved, the runs taken together: epsilon at delta 1e-4: east [23]\.\d+, north [23]\.\d+, south"
    assert re.search(reserved, said)
    about = json.loads((tmp_path / "sweep" / "sweep.json").read_text())
    assert RunDir(tmp_path / "sweep" / "0").info.run == about["runs"][0]
    for site in ("north", "south", "east"):
        entries = verify_ledger(get_ledger_path(tmp_path / "sweep" / RESERVATION_DIR / "sites" / site, "demo"))
        assert {entry.run for entry in entries if entry.kind == "reserve"} == set(about["runs"])
        assert find_active_reservations(entries, time.time()) == []
    code, said = fedhealth("run", "--multirun", *overrides, "seed=1,2,3,4,5,6", "hydra.sweep.dir=larger")
    assert code == 5
    assert "The sweep was declined before its first run. 0 of 3 sites accepted" in said
    assert said.count("the runs of the sweep together would exceed the privacy budget of demo") == 3
    assert states(tmp_path / "larger") == {}


@pytest.mark.long
def test_a_sweep_that_was_killed_goes_on_in_two_processes(fedhealth, tiny_overrides, good_hospitals, tmp_path):
    overrides = [*tiny_overrides(good_hospitals), "strategy.rounds=1", "hydra.sweep.dir=sweep", "seed=1,2,3,4"]
    overrides += ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    command = [sys.executable, "-m", "fedhealth.cli.main", "run", "--multirun", *overrides]
    first = subprocess.Popen(command, cwd=tmp_path, start_new_session=True, stdout=subprocess.DEVNULL)
    folder = tmp_path / "sweep"
    while "completed" not in states(folder).values():
        assert first.poll() is None
        time.sleep(0.02)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    done = [name for name, state in states(folder).items() if state == "completed"]
    assert 0 < len(done) < 4
    identities = {name: RunDir(folder / name).info.run for name in done}
    code, said = fedhealth("run", "resume=sweep")
    assert code == 0, said
    assert set(states(folder).values()) == {"completed"}
    assert len(states(folder)) == 4
    assert identities == {name: RunDir(folder / name).info.run for name in done}
    assert said.count("kept") == len(done)
