"""Fine-tuning: once, at the end, on a copy."""

import numpy as np
import pytest

from clients.personalization.finetune import FineTune
from tests.clients.personalization.line import RATE, gradient, local, pair, state


def test_two_steps_after_the_last_round_by_hand():
    w = np.array([0.4, 0.8])
    task = local(state(*w), final=True)
    own = FineTune(steps=2).get_personal_arrays(task)
    expected = w
    for _ in range(2):
        expected = expected - RATE * gradient(expected)
    assert pair(own) == pytest.approx(expected, abs=1e-6)
    assert pair(task.get_current_arrays()) == pytest.approx(w)  # the shared model is left as it was


def test_before_the_end_there_is_no_model_of_the_sites_own():
    assert FineTune().get_personal_arrays(local(state(0.4, 0.8))) == {}
    assert not FineTune.personal_model_is_dp  # made without noise: nothing is told of it
