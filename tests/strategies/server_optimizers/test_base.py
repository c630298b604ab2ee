"""What all server optimizers have in common."""

import numpy as np
import pytest

from strategies.checkpoint import CheckpointStore, RoundCheckpoint
from strategies.server_optimizers.adaptive import Adagrad, Adam, Yogi
from strategies.server_optimizers.averaging import Averaging
from strategies.server_optimizers.momentum import Momentum

OPTIMIZERS = {"avg": Averaging, "avgm": Momentum, "adagrad": Adagrad, "adam": Adam, "yogi": Yogi}


def array(*values):
    return np.array(values, np.float32)


@pytest.mark.parametrize(
    "optimizer", [Adagrad(0.2, tau=0.1), Adam(0.1, tau=0.1), Yogi(0.1, tau=0.1), Momentum(0.5, 0.5)]
)
def test_a_quadratic_is_minimised(optimizer):
    arrays = {"w": array(3.0, -2.0)}
    for _ in range(300):
        arrays = optimizer.step(arrays, {"w": 0.5 * (array(1.0, 1.0) - arrays["w"])})
    assert arrays["w"] == pytest.approx([1.0, 1.0], abs=0.05)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_running_statistics_are_averaged_and_absent_towers_wait(name):
    optimizer = OPTIMIZERS[name]()
    arrays = {"bn.running_var": array(1.0), "w": array(1.0), "towers.text.w": array(5.0)}
    optimizer.step(arrays, {"towers.text.w": array(1.0)})
    remembered = dict(optimizer.state)
    stepped = optimizer.step(arrays, {"bn.running_var": array(0.5), "w": array(0.1)})
    assert stepped["bn.running_var"].tolist() == [1.5]
    assert stepped["towers.text.w"] is arrays["towers.text.w"]
    assert all(optimizer.state[key] is value for key, value in remembered.items())
    assert not any("running" in key for key in optimizer.state)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_it_goes_on_from_a_checkpoint(name, tmp_path):
    whole, halves = OPTIMIZERS[name](), OPTIMIZERS[name]()
    arrays = {"w": array(1.0, 2.0)}
    updates = [{"w": array(0.1 * number, -0.2)} for number in range(4)]
    expected = arrays
    for update in updates:
        expected = whole.step(expected, update)
    for update in updates[:2]:
        arrays = halves.step(arrays, update)
    CheckpointStore(tmp_path).save(RoundCheckpoint("d", 2, 2, arrays, halves.state))
    kept = CheckpointStore(tmp_path).load_latest()
    again = OPTIMIZERS[name]()
    again.state, arrays = kept.optimizer, kept.arrays
    for update in updates[2:]:
        arrays = again.step(arrays, update)
    assert np.array_equal(arrays["w"], expected["w"])
