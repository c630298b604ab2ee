"""The shipped experiments on the real data sets they are for (skipped where those are absent)."""

import json

import pytest
from safetensors.numpy import load_file

from fedhealth.config.quoting import quote_value
from fedhealth.experiment.launch import launch_run
from fedhealth.experiment.run_spec import RunSpec
from fedhealth.report.site_gains import list_losers
from fedhealth.runs.load_record import load_run_record
from fedhealth.runs.run_dir import PRIVATE_FILE, RunDir
from tests.experiments.direct_gains import DirectHospital


@pytest.fixture
def run(shared_data, tmp_path):
    weights = shared_data / "image_encoder" / "mobilenet_v2_imagenet_fp16.safetensors"

    def start(experiment, folder, *overrides):
        overrides = [
            f"experiment={experiment}",
            f"data.root={quote_value(shared_data / folder)}",
            f"model.image.weights={quote_value(weights)}",
            "training.threads=1",
            "evaluation.bootstrap=20",
            "baselines.local_only=false",
            "baselines.centralised=false",
            *overrides,
        ]
        directory = RunDir(tmp_path / experiment)
        launch_run(RunSpec.compose(overrides, directory))
        return directory

    return start


def test_chest_x_rays_with_notes_here_and_laboratory_values_there(run):
    folder = run("cxr", "fed_cxr", "strategy.rounds=2", "data.image.size=96")
    assert folder.info.state == "completed"
    prepared = {e["site"]: e["counts"] for e in folder.read_events()[0] if e["event"] == "prepared"}
    assert prepared["hannover"]["text"] == 0
    assert prepared["eurorad"]["tabular"] == 0
    assert prepared["journals"]["unlabelled"] > 0
    # One hospital has laboratory values and two have notes. A sum hides a tower among three, so these stay local.
    shared, kept = load_file(folder.path / "model.safetensors"), load_file(folder.site_dir("hannover") / PRIVATE_FILE)
    assert {name.split(".")[1] for name in kept} == {"tabular", "text"}
    assert set(kept) < set(shared)
    evaluation = json.loads((folder.path / "evaluation.json").read_text())
    assert evaluation["test"]["studies"] == 92


def test_skin_lesions_of_the_smallest_source_and_its_neighbours(run):
    sites = "data.sites=[vienna_dias,rosendahl,vidir_modern]"
    folder = run("derm", "fed_derm", "strategy.rounds=3", "data.image.size=64", "training.local_steps=10", sites)
    test = json.loads((folder.path / "evaluation.json").read_text())["test"]
    assert test["studies"] == 46 + 251 + 271
    assert test["auroc"]["value"] > 0.6


def test_heart_says_of_each_hospital_what_a_direct_computation_finds(shared_data, tmp_path):
    overrides = ["experiment=heart", f"data.root={quote_value(shared_data / 'fed_heart')}"]
    overrides += ["training.threads=1", "evaluation.bootstrap=200", "baselines.centralised=false"]
    folder = RunDir(tmp_path / "heart")
    launch_run(RunSpec.compose(overrides, folder))
    gains = load_run_record(folder.path).comparison.sites
    assert [each.site for each in gains] == ["cleveland", "hungarian", "switzerland", "va"]
    for each in gains:
        direct = DirectHospital(overrides, each.site).compute_gains(folder.path / "model.safetensors")
        told = {name: getattr(each, name).value for name in direct}
        assert told == pytest.approx(direct, abs=1e-6)
        assert each.gain.value == pytest.approx(direct["shared"] - direct["alone"], abs=2e-6)
        assert each.gain.low <= each.gain.value <= each.gain.high
    report = (folder.path / "report.html").read_text("utf-8")
    for loser in list_losers(gains):
        verdict = "loses" if loser.gain.high < 0 else "may lose"
        assert f"{loser.site} {verdict} by the shared model" in report


@pytest.mark.long
def test_skin_lesions_say_of_each_source_what_a_direct_computation_finds(shared_data, tmp_path):
    weights = shared_data / "image_encoder" / "mobilenet_v2_imagenet_fp16.safetensors"
    overrides = ["experiment=derm", f"data.root={quote_value(shared_data / 'fed_derm')}", "training.threads=1"]
    overrides += [f"model.image.weights={quote_value(weights)}", "evaluation.bootstrap=200"]
    folder = RunDir(tmp_path / "derm")
    launch_run(RunSpec.compose([*overrides, "baselines.centralised=false", "baselines.modalities=false"], folder))
    for each in load_run_record(folder.path).comparison.sites:
        direct = DirectHospital(overrides, each.site).compute_gains(folder.path / "model.safetensors")
        assert {name: getattr(each, name).value for name in direct} == pytest.approx(direct, abs=1e-6)
