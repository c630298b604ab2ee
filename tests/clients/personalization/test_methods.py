"""Every method trains in a real federation, and keeps to itself what is its own."""

import numpy as np
import pytest
from safetensors.numpy import load_file

from fedhealth.experiment.launch import launch_run
from fedhealth.experiment.run_spec import RunSpec
from fedhealth.runs.run_dir import PERSONAL_FILE, PRIVATE_FILE, RunDir

SITES = ("north", "south", "east")
METHODS = {
    "none": ["personalization=none"],
    "fedprox": ["personalization=fedprox"],
    "ditto": ["personalization=ditto"],
    "scaffold": ["method=scaffold"],
}


@pytest.fixture(name="run")
def run_(tmp_path, good_hospitals, tiny_overrides):
    def go(name, *overrides) -> RunDir:
        overrides = [*tiny_overrides(good_hospitals), "strategy.rounds=2", *overrides]
        folder = RunDir(tmp_path / name)
        launch_run(RunSpec.compose(overrides, folder))
        return folder

    return go


@pytest.mark.parametrize("method", METHODS)
def test_a_method_trains_and_moves_the_shared_model(run, method):
    folder = run(method, *METHODS[method])
    other = run("untrained", "strategy.rounds=1", "training.optimizer.lr=0")
    trained, initial = (load_file(each.path / "model.safetensors") for each in (folder, other))
    assert any(not np.array_equal(array, initial[name]) for name, array in trained.items())
    assert not [name for name in trained if name.startswith("method.")]


def test_dittos_copies_differ_between_sites_and_stay_there(run):
    folder = run("ditto", *METHODS["ditto"])
    copies = [load_file(folder.site_dir(site) / PERSONAL_FILE) for site in SITES]
    assert set(copies[0]) == set(load_file(folder.path / "model.safetensors"))
    assert any(not np.array_equal(array, copies[1][name]) for name, array in copies[0].items())


def test_scaffolds_control_variates_are_kept_for_the_next_round(run):
    folder = run("scaffold", *METHODS["scaffold"])
    kept = load_file(folder.site_dir("north") / PRIVATE_FILE)
    assert all(name.startswith("method.control.") for name in kept)
    assert any(array.any() for array in kept.values())
