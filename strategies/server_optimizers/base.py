"""The server optimizer's interface and what all optimizers share.

The mean update is an ascending pseudo-gradient, so every optimizer also works on a secure sum.
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
    """Return array + change in the array's own type."""
    return (array + change).astype(array.dtype)
