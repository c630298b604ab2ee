"""What the lead does with the mean update: the server step of Reddi et al. (ICLR 2021)."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from fedhealth.training.state import State


class ServerOptimizer(Protocol):
    """Turns the shared arrays and the mean update (an ascending pseudo-gradient) into the next shared arrays.

    Arrays that are not in the update stay as they are.

    Attributes:
        memory: what a checkpoint must keep of it.

    """

    memory: State

    def step(self, arrays: State, update: State) -> State:
        """Return the next shared arrays, same names, shapes and types."""


class Averaging:
    """FedAvg: add the mean update.

    Args:
        learning_rate: 1 replaces the model by the mean of the sites' models.

    """

    def __init__(self, learning_rate: float = 1.0) -> None:
        self.learning_rate = learning_rate
        self.memory: State = {}

    def step(self, arrays: State, update: State) -> State:
        """Return arrays + learning_rate x update."""
        rate = np.float32(self.learning_rate)
        moved = {name: (arrays[name] + rate * change).astype(arrays[name].dtype) for name, change in update.items()}
        return arrays | moved
