"""The server step of FedAvg: add the mean update (McMahan et al., AISTATS 2017)."""

from __future__ import annotations

import numpy as np

from fedhealth.types import State
from strategies.server_optimizers.base import add_change


class Averaging:
    """FedAvg: add the mean update.

    Args:
        learning_rate: with 1 the next model is the mean of the sites' models.

    """

    def __init__(self, learning_rate: float = 1.0) -> None:
        self.learning_rate = learning_rate
        self.state: State = {}

    def step(self, arrays: State, update: State) -> State:
        """Return arrays + learning_rate x update, with the same names, shapes and types."""
        rate = np.float32(self.learning_rate)
        changes = update if rate == 1 else {name: rate * change for name, change in update.items()}
        return arrays | {name: add_change(arrays[name], change) for name, change in changes.items()}
