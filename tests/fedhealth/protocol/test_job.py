import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhealth.config.compose import compose_config, compute_config_digest
from fedhealth.config.schema import Config
from fedhealth.errors import ConfigError
from fedhealth.protocol.job import Job, compose_job_config

OVERRIDES = ("data.root=/data", "training=sgd", "seed=4")


@given(st.lists(st.text()), st.text(), st.text())
def test_a_job_goes_round(overrides, run, folder):
    job = Job(run, tuple(overrides), "d", folder)
    assert Job.loads(job.dumps()) == job
    assert hash(Job.loads(job.dumps())) == hash(job)


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "{}", '{"run": 1}', '{"overrides": 3}', '{"overrides": [], "x": 1}']
)
def test_what_is_no_job_is_refused(text):
    with pytest.raises(ConfigError, match="The job"):
        Job.loads(text)


def test_a_site_composes_what_the_lead_composed():
    config = compose_job_config(Job("r", OVERRIDES, compute_config_digest(compose_config(OVERRIDES)), "/run"))
    assert isinstance(config, Config)
    assert config.seed == 4
    assert config.training.optimizer["_target_"] == "torch.optim.SGD"


def test_another_configuration_than_the_leads_is_refused():
    job = Job("r", OVERRIDES, compute_config_digest(compose_config(OVERRIDES)), "/run")
    with pytest.raises(ConfigError, match="digest"):
        compose_job_config(dataclasses.replace(job, overrides=(*OVERRIDES, "model.dim=3")))


def test_a_folder_of_ones_own_travels_with_the_job(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "ours.yaml").write_text("name: ours\nroot: /ours\nsites: [a]\n", "utf-8")
    overrides = ("data=ours",)
    job = Job("r", overrides, compute_config_digest(compose_config(overrides, tmp_path)), "/run", str(tmp_path))
    assert compose_job_config(job).data.sites == ["a"]


def test_an_edited_folder_is_read_again(tmp_path):
    (tmp_path / "data").mkdir()
    file = tmp_path / "data" / "ours.yaml"
    file.write_text("name: ours\nroot: /ours\nsites: [a]\n", "utf-8")
    overrides = ("data=ours",)
    job = Job("r", overrides, compute_config_digest(compose_config(overrides, tmp_path)), "/run", str(tmp_path))
    assert compose_job_config(job) is compose_job_config(job)
    file.write_text("name: ours\nroot: /ours\nsites: [b]\n", "utf-8")
    with pytest.raises(ConfigError, match="has digest"):
        compose_job_config(job)
