"""Ditto against algorithm 1 of Li et al. 2021."""

import numpy as np
import pytest

from clients.personalization.ditto import Ditto
from fedhealth.errors import ModelError
from fedhealth.training.trainer import PlainTrainer
from tests.clients.personalization.line import RATE, X, Y, gradient, local, pair, state


def test_the_copys_step_by_hand_and_the_shared_model_as_without_it():
    w, v = np.array([0.4, 0.8]), np.array([-0.3, 1.1])
    task = local(state(*w), client_state=state(*v))
    Ditto(weight=0.7).train(task)
    assert pair(task.client_state) == pytest.approx(v - RATE * (gradient(v) + 0.7 * (v - w)), abs=1e-6)
    assert pair(task.get_current_arrays()) == pytest.approx(w - RATE * gradient(w), abs=1e-6)


def test_the_pull_is_the_gradient_of_the_squared_distance():
    w, v, weight, h = np.array([0.4, 0.8]), np.array([-0.3, 1.1]), 0.7, 1e-6

    def objective(at):
        z = at[0] * at[1] * X.astype(float)
        return (np.log1p(np.exp(-z)) + (1 - Y) * z).mean() + weight / 2 * ((at - w) ** 2).sum()

    slope = [(objective(v + h * e) - objective(v - h * e)) / (2 * h) for e in np.eye(2)]
    task = local(state(*w), client_state=state(*v))
    Ditto(weight).train(task)
    assert pair(task.client_state) == pytest.approx(v - RATE * np.array(slope), abs=1e-5)


def test_the_first_copy_starts_at_the_model_that_came():
    w = np.array([0.4, 0.8])
    task = local(state(*w))
    Ditto(weight=0.7).train(task)
    assert pair(task.client_state) == pytest.approx(w - RATE * gradient(w), abs=1e-6)


def test_a_copy_that_diverges_stays_as_it_was_in_a_private_run():
    """An error would leave the site, and the copy has no noise."""
    diverged = state(np.nan, 1.0)
    trainer = PlainTrainer()
    trainer.is_private = True
    task = local(state(0.4, 0.8), trainer=trainer, client_state=diverged)
    Ditto().train(task)
    assert np.isnan(task.client_state["body.weight"]).all()
    assert pair(task.get_current_arrays()) == pytest.approx(np.array([0.4, 0.8]) - RATE * gradient([0.4, 0.8]))
    with pytest.raises(ModelError, match="Training diverged"):
        Ditto().train(local(state(0.4, 0.8), client_state=diverged))
