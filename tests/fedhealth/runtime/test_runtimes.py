"""The same application on every runtime, and twice the same seed."""

import json
import logging
from unittest.mock import Mock

import numpy as np
import pytest
from safetensors.numpy import load_file

from fedhealth.errors import ConfigError
from fedhealth.experiment.launch import launch_run
from fedhealth.experiment.run_spec import RunSpec
from fedhealth.runs.run_dir import RunDir


@pytest.fixture
def run(good_hospitals, tiny_overrides, tmp_path):
    def start(name, *overrides):
        overrides = [*tiny_overrides(good_hospitals), *overrides]
        folder = RunDir(tmp_path / name)
        launch_run(RunSpec.compose(overrides, folder))
        return folder

    return start


def distance(first, second):
    one, other = (load_file(folder.path / "model.safetensors") for folder in (first, second))
    return max(float(np.abs(one[name] - other[name]).max()) for name in one)


def test_a_run_leaves_everything_about_it(run):
    folder = run("whole", "baselines.local_only=true", "baselines.centralised=true", "baselines.modalities=true")
    assert folder.info.state == "completed"
    evaluation = json.loads((folder.path / "evaluation.json").read_text())
    assert set(evaluation) == {"test", "validation"}
    comparison = json.loads((folder.path / "comparison.json").read_text())
    names = [model["name"] for model in comparison["models"]]
    alone = ["alone north", "alone south", "alone east"]
    assert names == ["federated", *alone, "centralised", "image only", "text only", "tabular only"]
    assert "<html" in (folder.path / "report.html").read_text()


def test_alternatives_trained_side_by_side_are_the_same(run):
    overrides = ("baselines.local_only=true", "baselines.modalities=true")
    one, two = (
        json.loads((run(f"workers-{n}", *overrides, f"baselines.workers={n}").path / "comparison.json").read_text())
        for n in (1, 2)
    )
    assert one == two


def test_the_same_seed_gives_the_same_bits_and_another_does_not(run):
    first = run("first")
    assert distance(first, run("second")) == 0.0
    assert distance(first, run("other", "seed=1")) > 0.0


@pytest.mark.filterwarnings("ignore")  # Ray and Flower's engine warn about themselves
@pytest.mark.xdist_group("ray")
@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param(["secagg=off"], marks=pytest.mark.long),
        ["secagg=on", "secagg.weights=exact", "training=sgd"],
    ],
)
def test_simulation_gives_the_model_of_local(run, overrides):
    pytest.importorskip("ray", reason="needs the extra fedhealth[simulation]")
    local = run("local", *[override for override in overrides if not override.startswith("secagg")])
    level = logging.getLogger("flwr").level
    try:
        simulated = run("simulated", "runtime=simulation", *overrides)
    finally:
        logging.getLogger("flwr").setLevel(level)
    assert distance(local, simulated) <= 1e-5


def test_a_failed_run_says_so_in_its_directory(run, tmp_path, monkeypatch):
    fail = Mock(side_effect=RuntimeError("the network is gone"))  # raised by no code of a user
    monkeypatch.setattr("fedhealth.runtime.local.LocalRuntime.launch", fail)
    with pytest.raises(RuntimeError):
        run("failed")
    about = RunDir(tmp_path / "failed").info
    assert about.state == "failed"
    assert "the network is gone" in about.fault.problem
    assert not (tmp_path / "failed" / "report.html").exists()


def test_a_configuration_that_is_refused_leaves_the_run_directory_free(run, tmp_path):
    with pytest.raises(ConfigError, match="max_rejected"):
        run("faulty", "data.max_rejected=7")
    assert not (tmp_path / "faulty" / "run.json").exists()
    assert run("faulty", "data.max_rejected=0.5").info.state == "completed"
