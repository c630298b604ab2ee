import numpy as np
import pytest

from strategies.server_optimizers.momentum import Momentum


def array(*values):
    return np.array(values, np.float32)


def test_momentum_by_hand():
    optimizer = Momentum(learning_rate=0.5, momentum=0.9)
    first = optimizer.step({"w": array(1.0)}, {"w": array(2.0)})
    assert first["w"] == pytest.approx([1 + 0.5 * 2.0])
    second = optimizer.step(first, {"w": array(1.0)})
    assert second["w"] == pytest.approx([2.0 + 0.5 * (0.9 * 2.0 + 1.0)])
