"""Adaptive server optimizers: Reddi et al., "Adaptive Federated Optimization", ICLR 2021, algorithm 2.

As in the paper, there is no bias correction and the second moment starts at tau^2.
"""

from __future__ import annotations

import numpy as np

from fedhealth.types import State
from strategies.server_optimizers.base import FIRST_MOMENT, add_change, is_running_statistic

_SECOND_MOMENT = "second."


class _Adaptive:
    """The step of all three adaptive optimizers; subclasses define how the second moment grows.

    Arrays are float32 by name; the next ones have the same shapes.

    m <- beta1 x m + (1 - beta1) x update, then add learning_rate x m / (sqrt(v) + tau).

    Args:
        learning_rate: of the server.
        beta1: weight of the previous first moment.
        beta2: weight of the previous second moment.
        tau: degree of adaptivity: a smaller tau makes the steps of all values more alike.

    """

    def __init__(
        self, learning_rate: float = 0.01, beta1: float = 0.9, beta2: float = 0.99, tau: float = 0.001
    ) -> None:
        self.learning_rate, self.beta1, self.beta2, self.tau = learning_rate, beta1, beta2, tau
        self.state: State = {}

    def next_second_moment(self, previous: np.ndarray, square: np.ndarray) -> np.ndarray:
        """Return the next second moment from the previous one and the update's square."""
        raise NotImplementedError

    def step(self, arrays: State, update: State) -> State:
        """Return the next arrays."""
        stepped = dict(arrays)
        for name, change in update.items():
            if is_running_statistic(name):
                stepped[name] = add_change(arrays[name], change)
                continue
            first = self.state.get(FIRST_MOMENT + name, np.zeros_like(change))
            second = self.state.get(_SECOND_MOMENT + name, np.full_like(change, self.tau**2))
            first = self.beta1 * first + (1 - self.beta1) * change
            second = self.next_second_moment(second, np.square(change))
            stepped[name] = add_change(arrays[name], self.learning_rate * first / (np.sqrt(second) + self.tau))
            self.state[FIRST_MOMENT + name] = np.asarray(first, np.float32)
            self.state[_SECOND_MOMENT + name] = np.asarray(second, np.float32)
        return stepped


class Adagrad(_Adaptive):
    """FedAdagrad: v <- v + update^2; arrays are float32 by name.

    Args:
        learning_rate: of the server.
        beta1: weight of the previous first moment.
        tau: degree of adaptivity.

    """

    def __init__(self, learning_rate: float = 0.01, beta1: float = 0.0, tau: float = 0.001) -> None:
        super().__init__(learning_rate, beta1, tau=tau)

    def next_second_moment(self, previous: np.ndarray, square: np.ndarray) -> np.ndarray:
        """Return v + update^2."""
        return previous + square


class Adam(_Adaptive):
    """FedAdam: v <- beta2 x v + (1 - beta2) x update^2; arrays are float32 by name.

    Args:
        learning_rate: of the server.
        beta1: weight of the previous first moment.
        beta2: weight of the previous second moment.
        tau: degree of adaptivity.

    """

    def next_second_moment(self, previous: np.ndarray, square: np.ndarray) -> np.ndarray:
        """Return the moving average."""
        return np.asarray(self.beta2 * previous + (1 - self.beta2) * square)


class Yogi(_Adaptive):
    """FedYogi: v <- v - (1 - beta2) x update^2 x sign(v - update^2); arrays are float32 by name.

    Args:
        learning_rate: of the server.
        beta1: weight of the previous first moment.
        beta2: weight of the previous second moment.
        tau: degree of adaptivity.

    """

    def next_second_moment(self, previous: np.ndarray, square: np.ndarray) -> np.ndarray:
        """Return v, moved toward update^2 by a step that does not grow with the distance."""
        return np.asarray(previous - (1 - self.beta2) * square * np.sign(previous - square))
