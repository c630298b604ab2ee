"""A baseline keeps its best state by the rule that chooses the federation's best round."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from fedhealth.config.compose import compose_config, compute_config_digest
from fedhealth.experiment.baselines import BaselineData
from fedhealth.experiment.best_state import BestState
from fedhealth.protocol.job import Job, compose_job_config


def train(scores, steps=6, every=2):
    """Return the weight after training that adds 1 in each step, scored after every other step."""
    model, given = nn.Linear(1, 1, bias=False), iter(scores)
    nn.init.zeros_(model.weight)
    best = BestState(model, lambda: next(given), every)
    for step in range(steps):
        best.score_step(step, {})
        with torch.no_grad():
            model.weight += 1
    best.restore_best()
    return model.weight.item(), list(given)


NONE = math.nan


@pytest.mark.parametrize(
    ("scores", "weight"),
    [
        ([0.6, 0.9, 0.7], 4),
        ([0.6, 0.7, 0.8], 6),
        ([0.8, 0.8, 0.8], 2),
        ([NONE, NONE, NONE], 6),
        ([NONE, 0.5, NONE], 4),
    ],
)
def test_the_best_state_is_restored_the_earliest_of_equals(scores, weight):
    assert train(scores) == (weight, [])


@pytest.mark.parametrize("select", ["best", "last"])
def test_a_pooled_baseline_follows_the_rule_of_the_run(tiny_overrides, good_hospitals, monkeypatch, select):
    overrides = [each for each in tiny_overrides(good_hospitals) if not each.startswith("strategy.")]
    overrides += ["strategy.rounds=4", f"strategy.select={select}", "training.optimizer.lr=0.1", "training.threads=1"]
    config = compose_job_config(Job("run", tuple(overrides), compute_config_digest(compose_config(overrides)), ""))
    bench = BaselineData.prepare(config)
    seen = []
    keep = BestState._keep_better

    def watch(self):
        keep(self)
        seen.append((self._score(), {name: value.clone() for name, value in self._model.state_dict().items()}))

    monkeypatch.setattr(BestState, "_keep_better", watch)
    bench.train_on(list(bench.cohorts))
    assert len(seen) == (4 if select == "best" else 0)
    if select == "best":
        _, best = max(seen, key=lambda each: each[0])
        found = bench.model.state_dict()
        assert all(np.array_equal(found[name].numpy(), value.numpy()) for name, value in best.items())
