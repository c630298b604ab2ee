"""What a hospital gains: the paired difference of a direct computation; a copy that starts at the shared model."""

import numpy as np
import pytest
from omegaconf import OmegaConf

from fedhealth.config.compose import compose_config
from fedhealth.evaluation.metrics import PRIMARY_METRIC
from fedhealth.evaluation.predictions import Predictions, bootstrap_metrics
from fedhealth.experiment.baselines import BaselineData
from fedhealth.experiment.site_gains import compare_sites
from fedhealth.models.model_state import get_model_arrays


@pytest.fixture(scope="module", name="config")
def config_(tiny_overrides, good_hospitals):
    return OmegaConf.to_object(compose_config([*tiny_overrides(good_hospitals), "model.image=null"]))


def scored(seed, shift):
    generator = np.random.default_rng(seed)
    labels = (np.arange(60) % 2).astype(float)
    scores = 1 / (1 + np.exp(-(generator.standard_normal(60) + shift * labels)))
    return Predictions(scores[:, None], labels[:, None], np.arange(60))


def test_gains_are_paired_differences_on_own_patients(config):
    shared, alone, tuned = scored(0, 1.0), scored(1, 2.0), scored(2, 1.5)
    [row] = compare_sites({"a": shared, "b": shared}, {"a": alone}, {"a": tuned}, config)
    draws = [
        bootstrap_metrics(each, config.evaluation.bootstrap, config.seed)[PRIMARY_METRIC] for each in (shared, alone)
    ]
    gain = draws[0] - draws[1]
    low, high = np.percentile(gain[1:], [2.5, 97.5])
    assert row["shared_gain"] == {
        "value": pytest.approx(gain[0], abs=1e-6),
        "low": pytest.approx(low, abs=1e-6),
        "high": pytest.approx(high, abs=1e-6),
    }
    assert row["shared_gain"]["value"] < 0
    assert row["tuned_gain"]["value"] == pytest.approx(row["tuned"]["value"] - row["alone"]["value"], abs=1e-5)
    [without] = compare_sites({"a": shared}, {"a": alone}, {}, config)
    assert "tuned" not in without


def test_a_personal_copy_is_trained_from_the_shared_model_and_leaves_it_alone(config):
    bench = BaselineData.prepare(config)
    before, common = bench.predict(), get_model_arrays(bench.model, list(bench.model.state_dict()))
    tuned = bench.predict_tuned()
    after = get_model_arrays(bench.model, list(bench.model.state_dict()))
    assert all(np.array_equal(common[name], after[name]) for name in common)
    assert tuned.keys() == before.keys()
    for site in tuned:
        assert np.array_equal(tuned[site].labels, before[site].labels)
        assert np.abs(tuned[site].scores - before[site].scores).max() > 1e-3
