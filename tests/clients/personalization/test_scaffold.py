"""SCAFFOLD against algorithm 1 of Karimireddy et al. 2020."""

import numpy as np
import pytest

from clients.personalization.scaffold import CONTROL, Scaffold
from tests.clients.personalization.line import RATE, gradient, local, pair, state


def controls(body, head):
    return {CONTROL + name: array for name, array in state(body, head).items()}


def plain(arrays):
    return pair({name.removeprefix(CONTROL): array for name, array in arrays.items()})


def test_two_steps_by_hand_and_option_two():
    x, c, own = np.array([0.4, 0.8]), np.array([0.05, -0.1]), np.array([-0.02, 0.2])
    task = local(state(*x), steps=2, extra=controls(*c), client_state=controls(*own))
    outcome = Scaffold().train(task)
    y = x
    for _ in range(2):
        y = y - RATE * (gradient(y) - own + c)
    assert pair(task.get_current_arrays()) == pytest.approx(y, abs=1e-6)
    option_two = own - c + (x - y) / (2 * RATE)
    assert plain(task.client_state) == pytest.approx(option_two, abs=1e-6)
    assert plain(outcome.extra) == pytest.approx(option_two - own, abs=1e-6)


def test_the_leads_control_variate_stays_the_mean_of_the_sites():
    starts, c = (np.array([0.4, 0.8]), np.array([-0.5, 0.3])), np.zeros(2)
    memories = [{}, {}]
    for _ in range(3):
        changes = []
        for start, memory in zip(starts, memories, strict=True):
            task = local(state(*start), steps=2, extra=controls(*c), client_state=memory)
            changes.append(plain(Scaffold().train(task).extra))
        c = c + np.mean(changes, axis=0)
        assert c == pytest.approx(np.mean([plain(memory) for memory in memories], axis=0), abs=1e-6)
