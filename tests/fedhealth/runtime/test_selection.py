"""The best round is exported: whole runs, with and without secure aggregation, also when they are killed."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from fedhealth.config.selection_rule import LOCAL_RULE, PRIVATE_RULE
from fedhealth.errors import FederationError
from fedhealth.experiment.launch import launch_run, resume_run
from fedhealth.experiment.run_spec import RunSpec
from fedhealth.runs.load_record import load_run_record
from fedhealth.runs.run_dir import RunDir
from strategies.checkpoint import CheckpointStore
from strategies.final_model import FinalModel

ROUNDS = 5
# The models of such large steps change from round to round, and the last one is not the best.
WILD = [f"strategy.rounds={ROUNDS}", "strategy.select=best", "training.optimizer.lr=0.1", "training.threads=1"]


@pytest.fixture(scope="module")
def run(tiny_overrides, good_hospitals, tmp_path_factory):
    def start(*overrides, fails=None):
        overrides = [*tiny_overrides(good_hospitals), *WILD, *overrides]
        overrides = list({each.partition("=")[0]: each for each in overrides}.values())
        folder = RunDir(tmp_path_factory.mktemp("selection") / "run")
        if fails is None:
            launch_run(RunSpec.compose(overrides, folder))
            return folder
        with pytest.raises(fails):
            launch_run(RunSpec.compose(overrides, folder))
        return folder

    return start


@pytest.fixture(scope="module")
def finished(run):
    return {secagg: run(f"secagg={secagg}") for secagg in ("off", "on")}


def list_scores(folder):
    """Return the pooled validation AUROC after each trained round, from the events."""
    events = folder.read_events()[0]
    scores = {e["round"] - 1: e["pooled"]["validation"]["auroc"] for e in events if e["event"] == "round_completed"}
    ended = [e for e in events if e["event"] == "evaluation_completed"]
    scores[len(scores)] = ended[0]["pooled"]["validation"]["auroc"]
    return {number: score for number, score in scores.items() if number}


def get_selected(folder):
    return [event for event in folder.read_events()[0] if event["event"] == "selected"][-1]


@pytest.mark.parametrize("secagg", ["off", "on"])
def test_the_best_round_is_exported_and_its_scores_are_reported(finished, secagg):
    folder = finished[secagg]
    scores = list_scores(folder)
    best = max(sorted(scores), key=scores.get)
    assert best < max(scores)  # otherwise this test shows nothing
    assert get_selected(folder)["round"] == best
    exported = load_file(folder.path / "model.safetensors")
    kept = CheckpointStore(folder.path).load_round(best)
    assert all(np.array_equal(kept.arrays[name], array) for name, array in exported.items())
    told = json.loads((folder.path / "evaluation.json").read_text())["validation"]["auroc"]["value"]
    assert told == pytest.approx(scores[best], abs=1e-4)
    record = load_run_record(folder.path)
    assert (record.selected.number, record.final.number, record.earlier[0].number) == (best, best, ROUNDS)
    assert (
        f"that of round {best} of {ROUNDS}, the best on the pooled validation rows"
        in (folder.path / "report.html").read_text()
    )


def test_secure_sums_choose_the_same_round(finished):
    assert get_selected(finished["off"])["round"] == get_selected(finished["on"])["round"]


def test_a_run_killed_before_the_second_evaluation_ends_the_same(run, monkeypatch):
    class PowerCut(BaseException):
        pass

    def cut(self, grid, number, config, timeout):
        self.driver.aggregation.look_back(self.checkpoints.load_round(number).history)
        raise PowerCut

    with monkeypatch.context() as patch:
        patch.setattr(FinalModel, "_evaluate_earlier", cut)
        folder = run("secagg=on", fails=PowerCut)
    resume_run(folder)
    scores = list_scores(folder)
    best = max(sorted(scores), key=scores.get)
    assert get_selected(folder)["round"] == best < ROUNDS
    exported, kept = load_file(folder.path / "model.safetensors"), CheckpointStore(folder.path).load_round(best)
    assert all(np.array_equal(kept.arrays[name], array) for name, array in exported.items())
    completed = [event for event in folder.read_events()[0] if event["event"] == "round_completed"]
    assert len(completed) == ROUNDS  # the restart trained nothing again


def test_a_better_round_that_cannot_be_evaluated_leaves_the_last_one(run, monkeypatch):
    def fail(self, grid, number, config, timeout):
        raise FederationError("a site has left.", "Wait.")

    monkeypatch.setattr(FinalModel, "_evaluate_earlier", fail)
    folder = run()
    selected = get_selected(folder)
    assert selected["round"] == ROUNDS
    assert "a site has left" in selected["reason"]
    last = CheckpointStore(folder.path).load_latest()
    exported = load_file(folder.path / "model.safetensors")
    assert all(np.array_equal(last.arrays[name], array) for name, array in exported.items())


def test_patience_ends_training_early(run, finished):
    scores = list_scores(finished["off"])
    best = max(sorted(scores), key=scores.get)
    folder = run("strategy.patience=1", "secagg=on")
    completed = [e["round"] for e in folder.read_events()[0] if e["event"] == "round_completed"]
    assert completed[-1] <= best + 2 <= ROUNDS
    assert get_selected(folder)["round"] <= best
    assert folder.info.state == "completed"


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["privacy=patient", "privacy.min_cohort=2", "strategy.rounds=2"], PRIVATE_RULE),
        (["personalization=fedper", "strategy.rounds=2"], LOCAL_RULE),
        (["strategy.select=last", "strategy.rounds=2"], ""),
    ],
)
def test_otherwise_the_last_round_is_exported_and_the_reason_is_told(run, overrides, reason):
    folder = run(*overrides)
    selected = get_selected(folder)
    assert (selected["round"], selected["reason"]) == (2, reason)
    ended = [event for event in folder.read_events()[0] if event["event"] == "evaluation_completed"]
    assert len(ended) == 1
    if reason:
        assert reason in (folder.path / "report.html").read_text()


def test_the_moving_average_is_what_the_sites_evaluate(run):
    calm = ["strategy.rounds=3", "strategy.select=last"]
    plain, averaged = run(*calm, "strategy.checkpoints=3"), run(*calm, "strategy.ema=0.5")
    store = CheckpointStore(plain.path)
    models = [store.load_round(number).arrays for number in (1, 2, 3)]
    found = load_file(averaged.path / "model.safetensors")
    weights = np.array([0.25, 0.5, 1.0]) / 1.75
    for name, array in found.items():
        expected = sum(weight * model[name].astype(np.float64) for weight, model in zip(weights, models, strict=True))
        assert array == pytest.approx(expected, abs=1e-5)
