"""MR-MTL against Liu et al. 2022."""

import numpy as np
import pytest

from clients.personalization.mr_mtl import MeanRegularised
from fedhealth.models.model_state import set_model_arrays
from tests.clients.personalization.line import RATE, gradient, local, pair, state


def test_a_site_goes_on_from_its_own_model_toward_the_mean():
    mean, own = np.array([0.4, 0.8]), np.array([-0.3, 1.1])
    task = local(state(*mean), client_state=state(*own))
    MeanRegularised(weight=0.7).train(task)
    expected = own - RATE * (gradient(own) + 0.7 * (own - mean))
    assert pair(task.get_current_arrays()) == pytest.approx(expected, abs=1e-6)
    assert pair(task.client_state) == pytest.approx(expected, abs=1e-6)
    assert pair(MeanRegularised().get_personal_arrays(task)) == pytest.approx(expected, abs=1e-6)


def test_the_mean_moves_to_the_mean_of_the_models():
    mean, owns = np.array([0.4, 0.8]), (np.array([-0.3, 1.1]), np.array([0.6, -0.2]))
    tasks = [local(state(*mean), client_state=state(*own)) for own in owns]
    for task in tasks:
        MeanRegularised().train(task)
    moved = mean + np.mean([pair(task.get_current_arrays()) - mean for task in tasks], axis=0)
    assert moved == pytest.approx(np.mean([pair(task.client_state) for task in tasks], axis=0), abs=1e-6)


def test_the_site_model_is_made_by_the_sites_trainer():
    """What leaves is the site's own model: it has to go through the trainer that noises."""

    class Noising:
        def fit(self, task, place):
            set_model_arrays(task.model, state(9.0, 9.0))

    task = local(state(0.4, 0.8), trainer=Noising())
    MeanRegularised().train(task)
    assert pair(task.client_state).tolist() == [9.0, 9.0]
    assert MeanRegularised.personal_model_is_dp
