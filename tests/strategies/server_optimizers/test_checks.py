"""A step of a server optimizer that is not the next model is told by its class and the array."""

import numpy as np
import pytest

from fedhealth.utils.own_code import OwnCodeError
from strategies import Averaging, Momentum
from strategies.server_optimizers.checks import step_checked

ARRAYS = {"w": np.ones(2, np.float32), "n": np.ones(1, np.int64)}
UPDATE = {"w": np.ones(2, np.float32)}


class Mine:
    def __init__(self, **changed):
        self.state, self.changed = {}, changed

    def step(self, arrays, update):
        stepped = {**arrays, **self.changed}
        return {name: array for name, array in stepped.items() if array is not None}


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"w": None}, "returned a model without w."),
        ({"v": UPDATE["w"]}, "returned a model with another array, v."),
        ({"w": np.ones(2)}, "returned w as an array of float64, shape [2], not as an array of float32, shape [2]."),
        ({"w": [1.0, 1.0]}, "returned w as a list"),
        ({"w": np.array([np.nan, 1], np.float32)}, "returned w with values that are not finite"),
    ],
    ids=["without", "another", "type", "list", "nan"],
)
def test_what_is_no_next_model_is_refused(changed, problem):
    with pytest.raises(OwnCodeError) as caught:
        step_checked(Mine(**changed), ARRAYS, UPDATE)
    assert f"Mine ({__file__})" in caught.value.problem
    assert problem in caught.value.problem


def test_a_step_that_leaves_arrays_as_they_are_passes():
    assert step_checked(Averaging(), ARRAYS, UPDATE)["w"].tolist() == [2, 2]


@pytest.mark.parametrize("optimizer", [Averaging(), Momentum(momentum=0.5)])
def test_an_array_without_axes_stays_one(optimizer):
    """A learned temperature, or the counter of a batch normalization in a stock client's model."""
    arrays: dict[str, np.ndarray] = {"t": np.array(1, np.float32), "n": np.array(3, np.int64)}
    update = {"t": np.array(0.5, np.float32), "n": np.array(2, np.float32)}
    for _ in range(2):
        stepped = step_checked(optimizer, arrays, update)
        assert {name: (type(each), each.shape, each.dtype) for name, each in stepped.items()} == {
            name: (np.ndarray, (), each.dtype) for name, each in arrays.items()
        }
