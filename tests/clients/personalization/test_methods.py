"""Methods leave at a hospital what is its own; tests/experiments/test_pairwise.py shows that each of them trains."""

import numpy as np
import pytest
from safetensors.numpy import load_file

from fedhealth.experiment.launch import launch_run
from fedhealth.experiment.run_spec import RunSpec
from fedhealth.runs.run_dir import PERSONAL_FILE, PRIVATE_FILE, RunDir

SITES = ("north", "south", "east")


@pytest.fixture(name="run")
def run_(tmp_path, good_hospitals, tiny_overrides):
    def go(name, *overrides) -> RunDir:
        overrides = [*tiny_overrides(good_hospitals), "strategy.rounds=2", *overrides]
        folder = RunDir(tmp_path / name)
        launch_run(RunSpec.compose(overrides, folder))
        return folder

    return go


def test_dittos_copies_differ_between_sites_and_stay_there(run):
    folder = run("ditto", "personalization=ditto")
    copies = [load_file(folder.site_dir(site) / PERSONAL_FILE) for site in SITES]
    assert set(copies[0]) == set(load_file(folder.path / "model.safetensors"))
    assert any(not np.array_equal(array, copies[1][name]) for name, array in copies[0].items())


def test_scaffolds_control_variates_are_kept_for_the_next_round(run):
    folder = run("scaffold", "method=scaffold")
    kept = load_file(folder.site_dir("north") / PRIVATE_FILE)
    assert all(name.startswith("method.control.") for name in kept)
    assert any(array.any() for array in kept.values())
