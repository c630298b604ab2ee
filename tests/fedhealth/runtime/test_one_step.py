"""`method=fedsgd`: without noise, the run is central training on the union of all patients, whoever adds it up."""

import json
import logging

import numpy as np
import pytest
from safetensors.numpy import load_file

from fedhealth.errors import PrivacyError
from fedhealth.experiment.launch import launch_run, resume_run
from fedhealth.experiment.run_spec import RunSpec
from fedhealth.privacy.accounting.ledger import verify_ledger
from fedhealth.privacy.accounting.ledger_folder import find_ledgers
from fedhealth.privacy.accounting.plan import bucket_count
from fedhealth.privacy.accounting.spending import iter_run_spending
from fedhealth.privacy.mechanisms.gaussian_noise import NoiseSource
from fedhealth.runs.run_dir import RunDir
from fedhealth.training.dpsgd_trainer import DPSGDTrainer
from strategies.checkpoint import CheckpointStore
from tests.fedhealth.runtime.central import WHOLE, measure_distance, train_centrally

SECURE = ["secagg=on", "secagg.weights=exact"]


@pytest.fixture
def run(tiny_overrides, tmp_path):
    def start(name, hospitals, *overrides):
        overrides = [*tiny_overrides(hospitals), *WHOLE, *overrides]
        folder = RunDir(tmp_path / name)
        launch_run(RunSpec.compose(overrides, folder))
        return folder, overrides

    return start


@pytest.mark.parametrize("overrides", [[], SECURE])
def test_the_run_is_central_training_on_all_patients(run, good_hospitals, overrides):
    folder, composed = run("run", good_hospitals, *overrides)
    assert measure_distance(train_centrally(composed), folder) <= 1e-6


def test_a_tower_that_one_hospital_cannot_train_is_a_mean_over_all_patients(run, site_writer, table_writer, tmp_path):
    root = tmp_path / "hospitals"
    for seed, site in enumerate(("north", "south", "east")):
        rows = site_writer(root, site, patients=24 + 12 * seed, seed=seed)
        if site == "east":
            for row in rows:
                row["image"] = ""
            table_writer(root / site / "manifest.csv", rows)
    folder, composed = run("run", root)
    assert measure_distance(train_centrally(composed), folder) <= 1e-6


@pytest.mark.filterwarnings("ignore")  # Ray and Flower's engine warn about themselves
@pytest.mark.xdist_group("ray")
@pytest.mark.long
def test_the_run_is_central_training_on_ray_too(run, good_hospitals):
    pytest.importorskip("ray", reason="needs the extra fedhealth[simulation]")
    level = logging.getLogger("flwr").level
    try:
        folder, composed = run("run", good_hospitals, "runtime=simulation", *SECURE)
    finally:
        logging.getLogger("flwr").setLevel(level)
    assert measure_distance(train_centrally(composed), folder) <= 1e-6


def test_private_training_without_its_noise_is_central_training_with_clipping(run, good_hospitals, monkeypatch):
    monkeypatch.setattr("fedhealth.privacy.mechanisms.gaussian_noise.NoiseSource.add_", lambda self, total, std: total)
    folder, composed = run("run", good_hospitals, "privacy=patient", "privacy.min_cohort=2", "privacy.sample_rate=1")
    assert measure_distance(train_centrally(composed, clip=1.0), folder) <= 1e-6


def test_the_optimizer_of_the_lead_survives_a_restart(run, good_hospitals, monkeypatch):
    whole, overrides = run("whole", good_hospitals)
    save = CheckpointStore.save

    def save_twice_and_stop(self, checkpoint):
        save(self, checkpoint)
        if checkpoint.round == 2:
            raise KeyboardInterrupt

    broken = RunDir(whole.path.parent / "broken")
    with monkeypatch.context() as patch:
        patch.setattr(CheckpointStore, "save", save_twice_and_stop)
        with pytest.raises(KeyboardInterrupt):
            launch_run(RunSpec.compose(overrides, broken))
    resume_run(broken)
    first, second = (load_file(folder.path / "model.safetensors") for folder in (whole, broken))
    assert all((first[name] == second[name]).all() for name in first)


def test_a_run_with_shared_noise_books_and_shows_both_numbers(run, good_hospitals):
    shared = ["privacy=patient", "privacy.min_cohort=2", "privacy.sample_rate=0.5", "privacy.noise=shared"]
    folder, _ = run("run", good_hospitals, "secagg=on", "strategy.rounds=2", *shared)
    spent = [*iter_run_spending(folder.path)]
    assert [each.shares for each in spent] == [3, 3, 3]  # three members, of whom none is assumed to collude
    assert all(0 < each.epsilon <= 8 < each.local_epsilon for each in spent)
    completed = [event for event in folder.read_events()[0] if event["event"] == "round_completed"]
    assert [event["divergence"] for event in completed] == [None, None]
    check_sums(folder)
    page = (folder.path / "report.html").read_text()
    assert "The noise of the opened sums is as promised" in page
    assert "as long as no more than 0 of the 3 hospitals pool what they know" in page
    assert "If all 2 others did, the bound would be epsilon" in page


def check_sums(folder):
    """Two rounds and the scores were opened with blank values; the scores' noise is that of one mechanism."""
    events = [event for event in folder.read_events()[0] if event["event"] == "noise_measured"]
    assert [(event["round"], "noised_statistics" in event["blanks"]) for event in events] == [
        (1, False),
        (2, False),
        (2, True),
    ]
    assert all(blanks["count"] == 256 for event in events for blanks in event["blanks"].values())
    entries = verify_ledger(next(path for _, path in find_ledgers(folder.path)))
    (scores,) = [entry.mechanism for entry in entries if entry.kind == "book" and entry.purpose == "evaluate"]
    noise = json.loads((folder.path / "evaluation.json").read_text())["test"]["noise"]
    assert scores.shares == 3
    assert noise["count_std"] == pytest.approx(scores.noise_multiplier, rel=0.01)  # three of three hospitals, one label


def test_a_hospital_that_forgets_its_noise_stops_the_run(run, good_hospitals, monkeypatch):
    """The blank values of eight rounds show it; what was opened before cannot be taken back."""
    take, add = DPSGDTrainer._fit_with_shares, NoiseSource.round_with_noise

    def forget(self, task, accounting, plan):
        wrong = add if accounting.site != "north" else lambda self, total, *_: np.zeros(total.size, np.int64)
        with monkeypatch.context() as patch:
            patch.setattr(NoiseSource, "round_with_noise", wrong)
            return take(self, task, accounting, plan)

    monkeypatch.setattr(DPSGDTrainer, "_fit_with_shares", forget)
    shared = ["privacy=patient", "privacy.min_cohort=2", "privacy.sample_rate=0.5", "privacy.noise=shared"]
    with pytest.raises(PrivacyError, match="a hospital adds less than its part"):
        run("run", good_hospitals, "secagg=on", "strategy.rounds=8", *shared)


def test_the_noise_of_the_sum_is_that_of_one_mechanism_and_not_of_each_hospital(run, good_hospitals):
    """Three hospitals: with shared noise a third of the variance; both as the plan says."""
    private = ["privacy=patient", "privacy.min_cohort=2", "privacy.sample_rate=1", "strategy.rounds=1", "secagg=on"]
    quiet = ["training.optimizer.momentum=0", "training.optimizer.weight_decay=0", "training.optimizer.lr=1"]
    found = {}
    for noise in ("local", "shared"):
        folder, composed = run(noise, good_hospitals, *private, *quiet, f"privacy.noise={noise}")
        central, noised = train_centrally(composed, clip=1.0), load_file(folder.path / "model.safetensors")
        off = np.concatenate([(noised[name] - central[name]).ravel() for name in central])
        spent = [*iter_run_spending(folder.path)]
        found[noise] = off.std() / spent[0].noise_multiplier
    sizes = [bucket_count(int(0.7 * 24)) for _ in range(3)]
    assert found["shared"] * np.sqrt(3) == pytest.approx(found["local"], rel=0.05)
    assert 0.5 / sum(sizes) < found["shared"] < 2 / sum(sizes)
