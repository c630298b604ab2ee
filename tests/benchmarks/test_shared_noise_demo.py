"""The arms of the demo's benchmark: central training with the noise of the sum that each arm opens."""

import math

import pytest

from benchmarks.shared_noise_demo import ARMS, Demo, compose_settings, compute_noise_multiplier
from fedhealth.config.instantiate import instantiate
from fedhealth.training.trainer import Workload


@pytest.fixture(name="demo")
def demo_(tmp_path):
    return Demo(tmp_path, rounds=4, seeds=1, tried_seeds=1)


@pytest.mark.parametrize("name", ARMS)
def test_an_arm_trains_its_towers_with_the_noise_of_its_sum(demo, name):
    words = demo.compose_words(ARMS[name], 0.01)
    config = compose_settings(words)
    towers = tuple(tower for tower in ("image", "text", "tabular") if getattr(config.model, tower))
    assert towers == ARMS[name].towers
    shared = ARMS[name].noise == "shared"
    trainer, work = instantiate(config.privacy), Workload((1,) * 500, frozenset(towers))
    assert trainer.shares_noise is shared
    plan = trainer.plan_run(work, config.training, demo.rounds, shares=3 if shared else 1)[1]
    own = compute_noise_multiplier(words)
    assert plan.noise_multiplier == own  # of one mechanism; each of four sites adds all of it, or one of three shares
    per_site = plan.noise_std / math.sqrt(plan.shares)
    assert ARMS[name].factor == pytest.approx((4 if ARMS[name].noise else 1) * per_site**2 / own**2)


def test_the_learning_rate_is_not_at_the_edge_of_what_was_tried(demo, monkeypatch):
    tried = []

    def train(self, arm, rate, seed):
        tried.append(rate)
        return rate

    monkeypatch.setattr(Demo, "train_centrally", train)
    monkeypatch.setattr("benchmarks.shared_noise_demo.score_patients", lambda rate, split: (rate, split))
    monkeypatch.setattr("benchmarks.shared_noise_demo.mean_auroc", lambda found: -abs(math.log(found[0][0] / 0.0013)))
    assert demo.choose_rate(ARMS["fused_shared"]) == 0.00125
    assert min(tried) < 0.00125 < max(tried)
    assert len(set(tried)) == len(tried)
