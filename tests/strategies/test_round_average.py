"""The moving average of the rounds' models."""

import numpy as np
import pytest

from fedhealth.errors import ConfigError
from strategies.round_average import RoundAverage


def average_models(models, ema):
    average = RoundAverage(ema)
    for model in models:
        average.add_model({"w": model})
    return average.get_mean({"w": models[-1]}, len(models))["w"]


def test_the_mean_weighs_newer_rounds_more():
    models = [np.full(3, value, np.float32) for value in (1, 2, 4)]
    weights = np.array([0.25, 0.5, 1.0])
    expected = (weights * [1, 2, 4]).sum() / weights.sum()
    assert average_models(models, 0.5) == pytest.approx(np.full(3, expected), abs=1e-6)


def test_the_mean_of_equal_models_is_the_model():
    model = np.array([0.1, -3, 7], np.float32)
    assert average_models([model] * 5, 0.9) == pytest.approx(model, rel=1e-5)


def test_without_averaging_nothing_is_kept():
    average = RoundAverage()
    average.add_model({"w": np.ones(2, np.float32)})
    assert average.state == {}
    last = {"w": np.zeros(2, np.float32)}
    assert average.get_mean(last, 1) is last


@pytest.mark.parametrize("ema", [-0.1, 1.0])
def test_a_weight_out_of_range_is_refused(ema):
    with pytest.raises(ConfigError, match=r"strategy\.ema"):
        RoundAverage(ema)
