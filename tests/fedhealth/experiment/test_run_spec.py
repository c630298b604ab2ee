import pytest
from omegaconf import OmegaConf

from fedhealth.config import compose
from fedhealth.config.compose import compute_config_digest
from fedhealth.config.compose_once import compose_once
from fedhealth.experiment.run_spec import RunSpec
from fedhealth.protocol.job import compose_job_config
from fedhealth.runs.run_dir import RunDir


@pytest.fixture
def composed(monkeypatch):
    """The overrides of each composition by Hydra."""
    found, inner = list[list[str]](), compose.hydra_compose

    def count(name, overrides, **settings):
        found.append([each for each in overrides if not each.startswith("hydra.")])
        return inner(name, overrides, **settings)

    monkeypatch.setattr(compose, "hydra_compose", count)
    return found


def test_the_check_and_the_job_in_this_process_compose_nothing_again(tmp_path, composed):
    overrides = [f"data.root={tmp_path}", "data.sites=[a,b,c]"]
    spec = RunSpec.compose(overrides, RunDir(tmp_path / "run"))
    spec.check()
    assert compose_job_config(spec.job) == spec.settings
    assert composed == [overrides]


def test_the_check_and_the_job_share_one_composition_with_a_folder_of_files(tmp_path, composed):
    overrides = [f"data.root={tmp_path}", "data.sites=[a,b,c]"]
    spec = RunSpec.compose(overrides, RunDir(tmp_path / "run"), tmp_path)
    spec.check()
    assert compose_job_config(spec.job) == spec.settings
    assert composed == [overrides, list(spec.job_overrides)]


@pytest.mark.parametrize(
    "overrides",
    [
        ["experiment=demo_shared"],
        ["experiment=demo", "data.cache=cache", "privacy=patient"],
        ["experiment=demo", "data.root='a, b = c'", "~data.tabular.sex", "model.text=null", "name='a=b'"],
        ["experiment=demo", "data.public.root='~/public'", "secagg=off", "method=scaffold"],
        ["experiment=heart", "data.sites=[a,b]"],
    ],
)
def test_what_is_kept_for_the_job_is_what_its_overrides_compose_to(overrides, tmp_path):
    run = RunSpec.compose(["data.root=here", *overrides], RunDir(tmp_path / "run"))
    kept, choices = compose_once(run.job.overrides)
    expected, chosen = compose.compose_with_choices(run.job.overrides)
    assert choices == chosen
    assert kept == expected
    assert OmegaConf.to_yaml(kept, resolve=True) == OmegaConf.to_yaml(expected, resolve=True)
    assert compute_config_digest(expected) == run.digest
