"""A public set beside each site's own rows."""

import numpy as np
import pytest
from flwr.app import RecordDict
from safetensors.numpy import load_file

from clients.context import SiteContext
from clients.institution import Institution
from clients.message import ParsedMessage
from fedhealth.config.compose import compose_config, compute_config_digest
from fedhealth.config.validate import validate_config
from fedhealth.errors import ConfigError
from fedhealth.experiment.launch import launch_run
from fedhealth.experiment.run_spec import RunSpec
from fedhealth.protocol.job import Job, compose_job_config
from fedhealth.protocol.messages import ACCEPTANCE, HANDSHAKE, Directive
from fedhealth.runs.run_dir import RunDir


@pytest.fixture(name="public")
def public_(site_writer, tmp_path):
    site_writer(tmp_path, "shared", patients=30, seed=9)
    return f"data.public.root='{tmp_path / 'shared'}'"


@pytest.fixture(name="overrides")
def words_(good_hospitals, tiny_overrides):
    return [*tiny_overrides(good_hospitals), "training=sgd", "training.threads=1", "strategy.rounds=1"]


def institution(overrides, folder):
    job = Job("run", tuple(overrides), compute_config_digest(compose_config(overrides)), str(folder))
    return Institution(SiteContext.virtual("north", folder), compose_job_config(job), job.digest)


def test_public_rows_are_trained_on_and_neither_weighed_nor_tested(overrides, public, tmp_path):
    without, beside = institution(overrides, tmp_path / "a"), institution([*overrides, public], tmp_path / "b")
    directive = Directive("run", beside.setup.digest, 0, 1, 0, ("north",))
    message = ParsedMessage(HANDSHAKE, directive, RecordDict())
    task, own = beside.setup.build_task(directive), without.setup.build_task(directive)
    assert len(task.rows) > len(own.rows)
    assert np.array_equal(task.rows[: len(own.rows)], own.rows)
    patients, publics = (set(task.examples.patient[rows]) for rows in np.split(task.rows, [len(own.rows)]))
    assert not patients & publics
    batch = task.examples.batch(task.rows)
    assert batch["image"].shape[0] == len(task.rows)
    weights = [each.join(message)[ACCEPTANCE]["weights"] for each in (without, beside)]
    assert weights[0] == weights[1]
    assert len(beside.setup.examples.labels) == len(without.setup.examples.labels)


def test_it_changes_the_model_and_works_privately(overrides, public, tmp_path):
    models = []
    for name, more in (("without", []), ("beside", [public]), ("private", [public, "privacy=patient", "secagg=on"])):
        run, all_overrides = RunDir(tmp_path / name), [*overrides, *more]
        launch_run(RunSpec.compose(all_overrides, run))
        models.append(load_file(run.path / "model.safetensors"))
    assert any(not np.array_equal(array, models[1][name]) for name, array in models[0].items())


def test_where_the_public_data_lie_is_each_sites_own_business(overrides, public):
    elsewhere = public.replace("shared", "other")
    assert compute_config_digest(compose_config([*overrides, public])) == compute_config_digest(
        compose_config([*overrides, elsewhere])
    )
    named = compute_config_digest(compose_config([*overrides, public, "data.public.manifest=other.csv"]))
    assert named != compute_config_digest(compose_config([*overrides, public]))


def test_a_site_called_public_would_be_mistaken_for_it(overrides, public):
    with pytest.raises(ConfigError, match="rename it"):
        validate_config(compose_config([*overrides, public, "data.sites=[north,public]"]))
