"""An Optuna search over tiny runs, each in a process of its own."""

import json

import pytest
from optuna.trial import TrialState

from fedhealth.errors import ConfigError
from fedhealth.experiment import sweep_search as module
from fedhealth.experiment.sweep_search import HyperparameterSearch
from fedhealth.runs.run_dir import RunDir
from fedhealth.utils.atomic_io import write_json


class Scripted:
    """Stands in for a trial's process: plays a run whose validation score after each round is known."""

    def __init__(self, target, args):
        overrides, folder, *_ = args
        self.run, self.overrides, self.pid, self.exitcode = RunDir(module.Path(folder)), overrides, None, 0
        self.number, self.alive = 0, True

    def start(self):
        if not self.run.exists:
            self.run.create(digest="x")

    def is_alive(self):
        """Do another round; the last one completes the run."""
        if self.alive:
            self.number += 1
            rate = float(self.overrides[-1].split("=")[1])
            if rate > 0.9:
                self.run.mark_failed(ConfigError("too fast"))
                self.alive = False
            elif self.number == 4:
                write_json(self.run.path / "evaluation.json", {"validation": {"auroc": {"value": 1 - rate}}})
                self.run.mark_completed()
                self.alive = False
            else:
                pooled = {"validation": {"auroc": 1 - rate}}
                self.run.append_event("round_completed", round=self.number + 1, pooled=pooled)
        return self.alive

    def stop(self):
        self.alive = False


@pytest.fixture(autouse=True)
def scripted(monkeypatch):
    monkeypatch.setattr(module, "get_context", lambda kind: type("Context", (), {"Process": Scripted}))
    monkeypatch.setattr(module, "_interrupt_trial", lambda process: process.stop())
    monkeypatch.setattr(module, "_POLL_SECONDS", 0)


def searched(folder, trials, **settings):
    said = []
    space = {"training": {"optimizer": {"lr": {"low": 0.0, "high": 0.85}}}}
    search = HyperparameterSearch(**{"space": space, "trials": trials, "startup": 3, "warmup": 0, **settings})
    search.run(["a=1"], folder, "", said.append)
    return search._study(folder), said


def test_it_maximises_and_stops_what_falls_behind_the_median(tmp_path):
    study, said = searched(tmp_path, 12, workers=2)
    by_state = {state: [t for t in study.trials if t.state is state] for state in TrialState}
    assert len(study.trials) == len(said) == 12
    assert len(by_state[TrialState.PRUNED]) > 0
    assert study.best_value == max(t.value for t in by_state[TrialState.COMPLETE])
    assert study.best_value == pytest.approx(1 - study.best_params["training.optimizer.lr"])
    assert any(line.startswith("stopped early") for line in said)


def test_a_failed_trial_is_one_of_many(tmp_path):
    space = {"training": {"optimizer": {"lr": [0.95, 0.1]}}}
    study, said = searched(tmp_path, 6, space=space)
    assert {t.state for t in study.trials} == {TrialState.FAIL, TrialState.COMPLETE}
    assert any("too fast" in line for line in said)


def test_a_search_that_was_killed_finishes_its_trials_first(tmp_path):
    searched(tmp_path, 2)
    study, _ = searched(tmp_path, 2)
    assert len(study.trials) == 2  # nothing was left to do
    killed = study.ask(HyperparameterSearch({"training": {"optimizer": {"lr": {"low": 0.0, "high": 0.5}}}}).space)
    study, said = searched(tmp_path, 4)
    assert len(study.trials) == 4
    assert study.trials[2].state is not TrialState.RUNNING
    assert said[0].split(":")[0].endswith(str(killed.number))


def test_impossible_settings_are_refused():
    with pytest.raises(ConfigError, match="at least 1"):
        HyperparameterSearch({"a": [1, 2]}, trials=0)


@pytest.mark.long
def test_real_runs_are_searched_from_the_command_line(fedhealth, tiny_overrides, good_hospitals, tmp_path, monkeypatch):
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    overrides = [*tiny_overrides(good_hospitals), "sweep=search", "sweep.trials=2", "hydra.run.dir=found"]
    overrides += ["~sweep.space.training.local_steps", "strategy.rounds=1", "sweep.workers=1"]
    overrides += ["privacy=patient_small", "privacy.delta=1e-4", "privacy.epsilon=3"]
    code, said = fedhealth("run", *overrides)
    assert code == 0, said
    assert said.count("completed") >= 2
    assert "2 of them with differential privacy: together at most epsilon 6 at delta 2e-4 for each patient" in said
    assert "reserved, the runs taken together: epsilon at delta 1e-4: east" in said
    about = json.loads((tmp_path / "found" / "sweep.json").read_text())
    assert [RunDir(tmp_path / "found" / f"trial-{n}").info.run for n in (0, 1)] == about["runs"]
    assert about["request"] is None  # released
    found = sorted((tmp_path / "found").glob("trial-*/run.json"))
    assert len(found) == 2
    assert all("sweep=search" not in json.loads(path.read_text())["overrides"] for path in found)
    assert (tmp_path / "found" / "compare.html").is_file()
    code, said = fedhealth("run", "resume=found")
    assert code == 0, said
    assert "completed" not in said.split("Run")[0]
