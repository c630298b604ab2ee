"""APFL against equations of Deng et al. 2020."""

import numpy as np
import pytest

from clients.personalization.apfl import ALPHA, APFL
from tests.clients.personalization.line import RATE, gradient, local, pair, state


def test_a_step_of_copy_and_share_by_hand():
    w, v, alpha = np.array([0.4, 0.8]), np.array([-0.3, 1.1]), 0.25
    memory = state(*v) | {ALPHA: np.array([alpha], np.float32)}
    task = local(state(*w), client_state=memory)
    APFL(alpha_lr=0.2).train(task)
    g = gradient(alpha * v + (1 - alpha) * w)
    assert pair(task.client_state) == pytest.approx(v - RATE * alpha * g, abs=1e-6)
    assert task.client_state[ALPHA].item() == pytest.approx(alpha - 0.2 * np.dot(v - w, g), abs=1e-6)
    assert pair(task.get_current_arrays()) == pytest.approx(
        w - RATE * gradient(w), abs=1e-6
    )  # the shared model, as without it


def test_two_steps_use_the_share_of_the_moment():
    w, v, alpha = np.array([0.4, 0.8]), np.array([-0.3, 1.1]), 0.25
    task = local(state(*w), steps=2, client_state=state(*v) | {ALPHA: np.array([alpha], np.float32)})
    APFL(alpha_lr=0.2).train(task)
    for _ in range(2):
        g = gradient(alpha * v + (1 - alpha) * w)
        v, alpha = v - RATE * alpha * g, alpha - 0.2 * np.dot(v - w, g)
    assert pair(task.client_state) == pytest.approx(v, abs=1e-6)
    assert task.client_state[ALPHA].item() == pytest.approx(alpha, abs=1e-6)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_share_stays_between_none_and_all(sign):
    w, v = np.array([0.4, 0.8]), np.array([-0.3, 1.1])
    task = local(state(*w), client_state=state(*v) | {ALPHA: np.array([0.5], np.float32)})
    rate = 1e6 * sign
    APFL(alpha_lr=rate).train(task)
    expected = 0.5 - rate * np.dot(v - w, gradient((v + w) / 2))
    assert task.client_state[ALPHA].item() == np.clip(expected, 0, 1)


def test_the_sites_model_is_the_mixture():
    memory = state(-0.3, 1.1) | {ALPHA: np.array([0.25], np.float32)}
    own = APFL().get_personal_arrays(local(state(0.4, 0.8), client_state=memory))
    assert pair(own) == pytest.approx([0.25 * -0.3 + 0.75 * 0.4, 0.25 * 1.1 + 0.75 * 0.8])
    assert APFL().get_personal_arrays(local(state(0.4, 0.8))) == {}
