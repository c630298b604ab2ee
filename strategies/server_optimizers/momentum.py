"""FedAvgM: Hsu et al., "Measuring the Effects of Non-Identical Data Distribution", 2019."""

from __future__ import annotations

import numpy as np

from fedhealth.types import State
from strategies.server_optimizers.base import FIRST_MOMENT, add_change, is_running_statistic


class Momentum:
    """FedAvgM: m <- momentum x m + update, then add learning_rate x m.

    Args:
        learning_rate: of the server.
        momentum: weight of the previous m.

    """

    def __init__(self, learning_rate: float = 1.0, momentum: float = 0.9) -> None:
        self.learning_rate, self.momentum = learning_rate, momentum
        self.state: State = {}

    def step(self, arrays: State, update: State) -> State:
        """Return arrays + learning_rate x m, with the same names, shapes and types."""
        stepped = dict(arrays)
        for name, change in update.items():
            if is_running_statistic(name):
                stepped[name] = add_change(arrays[name], change)
                continue
            moment = self.momentum * self.state.get(FIRST_MOMENT + name, np.float32(0)) + change
            self.state[FIRST_MOMENT + name] = np.asarray(moment, np.float32)
            stepped[name] = add_change(arrays[name], self.learning_rate * moment)
        return stepped
