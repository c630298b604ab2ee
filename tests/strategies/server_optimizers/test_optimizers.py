"""The server step, against the algorithms as they are printed."""

import numpy as np
import pytest

from strategies.checkpoint import Checkpoints, Snapshot
from strategies.server_optimizers.optimizers import Adagrad, Adam, Averaging, Momentum, Yogi

OPTIMIZERS = {"avg": Averaging, "avgm": Momentum, "adagrad": Adagrad, "adam": Adam, "yogi": Yogi}


def array(*values):
    return np.array(values, np.float32)


@pytest.mark.parametrize("rate", [1.0, 0.5])
def test_averaging_adds_the_mean_update(rate):
    arrays = {"w": np.array([[1.0, 2.0]], np.float32), "local": np.ones(3)}
    stepped = Averaging(rate).step(arrays, {"w": np.array([[2.0, -4.0]], np.float32)})
    assert stepped["w"].tolist() == [[1 + 2 * rate, 2 - 4 * rate]]
    assert stepped["local"] is arrays["local"]
    assert stepped["w"].dtype == np.float32
    assert arrays["w"].tolist() == [[1.0, 2.0]]


def test_momentum_by_hand():
    optimizer = Momentum(learning_rate=0.5, momentum=0.9)
    first = optimizer.step({"w": array(1.0)}, {"w": array(2.0)})
    assert first["w"] == pytest.approx([1 + 0.5 * 2.0])
    second = optimizer.step(first, {"w": array(1.0)})
    assert second["w"] == pytest.approx([2.0 + 0.5 * (0.9 * 2.0 + 1.0)])


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
    assert optimizer.memory["second.w"] == pytest.approx([1.0 - 0.01 * 0.25])


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
    remembered = dict(optimizer.memory)
    stepped = optimizer.step(arrays, {"bn.running_var": array(0.5), "w": array(0.1)})
    assert stepped["bn.running_var"].tolist() == [1.5]
    assert stepped["towers.text.w"] is arrays["towers.text.w"]
    assert all(optimizer.memory[key] is value for key, value in remembered.items())
    assert not any("running" in key for key in optimizer.memory)


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
    Checkpoints(tmp_path).save(Snapshot("d", 2, 2, arrays, halves.memory))
    kept = Checkpoints(tmp_path).latest()
    again = OPTIMIZERS[name]()
    again.memory, arrays = kept.optimizer, kept.arrays
    for update in updates[2:]:
        arrays = again.step(arrays, update)
    assert np.array_equal(arrays["w"], expected["w"])
