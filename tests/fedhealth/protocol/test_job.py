import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhealth.config.compose import compose, digest
from fedhealth.config.schema import Config
from fedhealth.errors import ConfigError
from fedhealth.protocol.job import Job, config_of

WORDS = ("data.root=/data", "training=sgd", "seed=4")


@given(st.lists(st.text()), st.text(), st.text())
def test_a_job_goes_round(words, run, folder):
    job = Job(run, tuple(words), "d", folder)
    assert Job.loads(job.dumps()) == job
    assert hash(Job.loads(job.dumps())) == hash(job)


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "{}", '{"run": 1}', '{"overrides": 3}', '{"overrides": [], "x": 1}']
)
def test_what_is_no_job_is_refused(text):
    with pytest.raises(ConfigError, match="not a fedhealth job"):
        Job.loads(text)


def test_a_site_composes_what_the_lead_composed():
    config = config_of(Job("r", WORDS, digest(compose(WORDS)), "/run"))
    assert isinstance(config, Config)
    assert config.seed == 4
    assert config.training.optimizer["_target_"] == "torch.optim.SGD"


def test_another_configuration_than_the_leads_is_refused():
    job = Job("r", WORDS, digest(compose(WORDS)), "/run")
    with pytest.raises(ConfigError, match="digest"):
        config_of(dataclasses.replace(job, overrides=(*WORDS, "model.dim=3")))


def test_a_folder_of_ones_own_travels_with_the_job(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "ours.yaml").write_text("name: ours\nroot: /ours\nsites: [a]\n", "utf-8")
    words = ("data=ours",)
    job = Job("r", words, digest(compose(words, tmp_path)), "/run", str(tmp_path))
    assert config_of(job).data.sites == ["a"]
