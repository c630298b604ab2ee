"""The adaptive steps, against the algorithms as they are printed."""

import numpy as np
import pytest

from strategies.server_optimizers.adaptive import Adagrad, Adam, Yogi


def array(*values):
    return np.array(values, np.float32)


@pytest.mark.parametrize(
    ("optimizer", "seconds"),
    [
        # tau = .1: v starts at .01; updates .3, then .2
        (Adagrad(1.0, 0.9, tau=0.1), (0.01 + 0.09, 0.01 + 0.09 + 0.04)),
        (Adam(1.0, 0.9, 0.99, tau=0.1), (0.99 * 0.01 + 0.01 * 0.09, 0.99 * (0.99 * 0.01 + 0.01 * 0.09) + 0.01 * 0.04)),
        (Yogi(1.0, 0.9, 0.99, tau=0.1), (0.01 + 0.01 * 0.09, 0.01 + 0.01 * 0.09 + 0.01 * 0.04)),
    ],
)
def test_two_adaptive_steps_by_hand(optimizer, seconds):
    firsts = (0.1 * 0.3, 0.9 * 0.03 + 0.1 * 0.2)
    arrays, expected = {"w": array(1.0)}, 1.0
    for update, first, second in zip((0.3, 0.2), firsts, seconds, strict=True):
        arrays = optimizer.step(arrays, {"w": array(update)})
        expected += first / (second**0.5 + 0.1)
        assert arrays["w"] == pytest.approx([expected], rel=1e-5)


def test_yogis_second_moment_falls_when_updates_shrink():
    optimizer = Yogi(tau=1.0)
    optimizer.step({"w": array(0.0)}, {"w": array(0.5)})
    assert optimizer.state["second.w"] == pytest.approx([1.0 - 0.01 * 0.25])
