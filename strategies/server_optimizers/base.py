"""What a server optimizer is: it turns the model and the mean update of a round into the next model.

    step(arrays, update)          return the next arrays, with the same names, shapes and types
    state                         its own arrays, such as moments; saved in every checkpoint and restored from it

The mean update is an ascending pseudo-gradient (add it, do not subtract it), so every optimizer also works on a secure
sum. Running statistics of batch normalization are averaged, never optimized. See docs/add-a-server-optimizer.md; the
configuration names the class (`conf/strategy/server_optimizer/*.yaml`).
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from fedhealth.types import State

FIRST_MOMENT = "first."  # prefix of the arrays' names in the optimizer's state
_RUNNING_STATISTICS = ("running_mean", "running_var")  # of batch normalization: not parameters, so only averaged


class ServerOptimizer(Protocol):
    """Turns the shared arrays and the mean update (an ascending pseudo-gradient) into the next shared arrays.

    Arrays that the update does not contain do not change, and neither does the optimizer state for them.

    Attributes:
        state: the optimizer's own arrays (moments), saved in every checkpoint.

    """

    state: State

    def step(self, arrays: State, update: State) -> State:
        """Return the next shared arrays with the same names, shapes and types."""


def is_running_statistic(name: str) -> bool:
    """Return whether an array holds running statistics instead of parameters."""
    return name.endswith(_RUNNING_STATISTICS)


def add_change(array: np.ndarray, change: np.ndarray) -> np.ndarray:
    """Return array + change, both of the same shape, in the array's own type."""
    return np.add(array, change).astype(array.dtype, copy=False)
