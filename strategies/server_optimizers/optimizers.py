"""What the lead does with the mean update: the server step.

Reddi et al., "Adaptive Federated Optimization", ICLR 2021, algorithm 2. The mean update is an ascending
pseudo-gradient, so every optimizer works on a secure sum as well. As in the paper there is no bias correction and the
second moment starts at tau^2. FedAvgM is Hsu et al., "Measuring the Effects of Non-Identical Data Distribution", 2019.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from fedhealth.types import State

_RUNNING = ("running_mean", "running_var")  # statistics, not parameters: they are averaged and nothing else
_FIRST, _SECOND = "first.", "second."


class ServerOptimizer(Protocol):
    """Turns the shared arrays and the mean update (an ascending pseudo-gradient) into the next shared arrays.

    Arrays that are not in the update stay as they are, and so does what is remembered of them.

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
        return arrays | {name: _add(arrays[name], rate * change) for name, change in update.items()}


class Momentum:
    """FedAvgM: m <- momentum x m + update, then add learning_rate x m.

    Args:
        learning_rate: of the server.
        momentum: share of the past that is kept.

    """

    def __init__(self, learning_rate: float = 1.0, momentum: float = 0.9) -> None:
        self.learning_rate, self.momentum = learning_rate, momentum
        self.memory: State = {}

    def step(self, arrays: State, update: State) -> State:
        """Return arrays + learning_rate x m."""
        stepped = dict(arrays)
        for name, change in update.items():
            if name.endswith(_RUNNING):
                stepped[name] = _add(arrays[name], change)
                continue
            moment = self.momentum * self.memory.get(_FIRST + name, np.float32(0)) + change
            self.memory[_FIRST + name] = np.asarray(moment, np.float32)
            stepped[name] = _add(arrays[name], self.learning_rate * moment)
        return stepped


class _Adaptive:
    """What the three adaptive optimizers share: all but how the second moment grows.

    m <- beta1 x m + (1 - beta1) x update, then add learning_rate x m / (sqrt(v) + tau).

    Args:
        learning_rate: of the server.
        beta1: share of the first moment that is kept.
        beta2: share of the second moment that is kept.
        tau: degree of adaptivity: the smaller, the more alike the steps of all values.

    """

    def __init__(
        self, learning_rate: float = 0.01, beta1: float = 0.9, beta2: float = 0.99, tau: float = 0.001
    ) -> None:
        self.learning_rate, self.beta1, self.beta2, self.tau = learning_rate, beta1, beta2, tau
        self.memory: State = {}

    def second(self, before: np.ndarray, square: np.ndarray) -> np.ndarray:
        """Return the next second moment from the last one and the update's square."""
        raise NotImplementedError

    def step(self, arrays: State, update: State) -> State:
        """Return the next arrays."""
        stepped = dict(arrays)
        for name, change in update.items():
            if name.endswith(_RUNNING):
                stepped[name] = _add(arrays[name], change)
                continue
            first = self.memory.get(_FIRST + name, np.zeros_like(change))
            second = self.memory.get(_SECOND + name, np.full_like(change, self.tau**2))
            first = self.beta1 * first + (1 - self.beta1) * change
            second = self.second(second, np.square(change))
            stepped[name] = _add(arrays[name], self.learning_rate * first / (np.sqrt(second) + self.tau))
            self.memory[_FIRST + name] = np.asarray(first, np.float32)
            self.memory[_SECOND + name] = np.asarray(second, np.float32)
        return stepped


class Adagrad(_Adaptive):
    """FedAdagrad: v <- v + update^2."""

    def __init__(self, learning_rate: float = 0.01, beta1: float = 0.0, tau: float = 0.001) -> None:
        super().__init__(learning_rate, beta1, tau=tau)

    def second(self, before: np.ndarray, square: np.ndarray) -> np.ndarray:
        """Return v + update^2."""
        return before + square


class Adam(_Adaptive):
    """FedAdam: v <- beta2 x v + (1 - beta2) x update^2."""

    def second(self, before: np.ndarray, square: np.ndarray) -> np.ndarray:
        """Return the moving average."""
        return np.asarray(self.beta2 * before + (1 - self.beta2) * square)


class Yogi(_Adaptive):
    """FedYogi: v <- v - (1 - beta2) x update^2 x sign(v - update^2)."""

    def second(self, before: np.ndarray, square: np.ndarray) -> np.ndarray:
        """Return v, moved toward update^2 by a step that does not grow with the distance."""
        return np.asarray(before - (1 - self.beta2) * square * np.sign(before - square))


def _add(array: np.ndarray, change: np.ndarray) -> np.ndarray:
    return (array + change).astype(array.dtype)
