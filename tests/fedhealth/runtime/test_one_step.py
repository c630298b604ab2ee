"""`method=fedsgd`: without noise, the run is central training on the union of all patients, whoever adds it up."""

import logging

import pytest
from safetensors.numpy import load_file

from fedhealth.experiment.launch import launch_run, resume_run
from fedhealth.experiment.run_spec import RunSpec
from fedhealth.runs.run_dir import RunDir
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
