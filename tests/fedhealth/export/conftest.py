"""A finished federation over three tiny hospitals, with its exported model."""

import pytest
from omegaconf import OmegaConf

from fedhealth.config.compose import compose_config
from fedhealth.experiment.launch import launch_run
from fedhealth.experiment.run_spec import RunSpec
from fedhealth.runs.run_dir import RunDir


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_overrides, good_hospitals):
    """(run directory, typed configuration)."""
    overrides = tiny_overrides(good_hospitals)
    run = RunDir(tmp_path_factory.mktemp("exported") / "run")
    launch_run(RunSpec.compose(overrides, run))
    return run, OmegaConf.to_object(compose_config(overrides))
