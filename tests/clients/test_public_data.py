"""A public set beside each site's own rows."""

import numpy as np
import pytest
from safetensors.numpy import load_file

from clients.institution import Institution, Site
from fedhealth.config.compose import compose, digest
from fedhealth.config.validate import validate
from fedhealth.errors import ConfigError
from fedhealth.experiment.launch import launch
from fedhealth.protocol.job import Job, config_of
from fedhealth.protocol.messages import ACCEPTANCE, Directive
from fedhealth.runs.run_dir import RunDir


@pytest.fixture(name="public")
def public_(site_writer, tmp_path):
    site_writer(tmp_path, "shared", patients=30, seed=9)
    return f"data.public.root='{tmp_path / 'shared'}'"


@pytest.fixture(name="words")
def words_(good_hospitals, tiny_words):
    return [*tiny_words(good_hospitals), "training=sgd", "training.threads=1", "strategy.rounds=1"]


def institution(words, folder):
    job = Job("run", tuple(words), digest(compose(words)), str(folder))
    return Institution(Site.virtual("north", folder), config_of(job), job.digest)


def test_public_rows_are_trained_on_and_neither_weighed_nor_tested(words, public, tmp_path):
    without, beside = institution(words, tmp_path / "a"), institution([*words, public], tmp_path / "b")
    directive = Directive("run", beside.digest, 0, 1, 0, ("north",))
    task, own = beside._task(directive), without._task(directive)
    assert len(task.rows) > len(own.rows)
    assert np.array_equal(task.rows[: len(own.rows)], own.rows)
    patients, publics = (set(task.examples.patient[rows]) for rows in np.split(task.rows, [len(own.rows)]))
    assert not patients & publics
    batch = task.examples.batch(task.rows)
    assert batch["image"].shape[0] == len(task.rows)
    weights = [each.accept(directive)[ACCEPTANCE]["weights"] for each in (without, beside)]
    assert weights[0] == weights[1]
    assert len(beside.examples.labels) == len(without.examples.labels)


def test_it_changes_the_model_and_works_privately(words, public, tmp_path):
    models = []
    for name, more in (("without", []), ("beside", [public]), ("private", [public, "privacy=patient", "secagg=on"])):
        run, all_words = RunDir(tmp_path / name), [*words, *more]
        launch(compose(all_words), all_words, run)
        models.append(load_file(run.path / "model.safetensors"))
    assert any(not np.array_equal(array, models[1][name]) for name, array in models[0].items())


def test_where_the_public_data_lie_is_each_sites_own_business(words, public):
    elsewhere = public.replace("shared", "other")
    assert digest(compose([*words, public])) == digest(compose([*words, elsewhere]))
    named = digest(compose([*words, public, "data.public.manifest=other.csv"]))
    assert named != digest(compose([*words, public]))


def test_a_site_called_public_would_be_mistaken_for_it(words, public):
    with pytest.raises(ConfigError, match="rename it"):
        validate(compose([*words, public, "data.sites=[north,public]"]))
