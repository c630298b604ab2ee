"""The moving average of the models of all rounds: what training leaves when the last round is over.

Exponential averages of iterates vary less than the last one: Polyak and Juditsky, "Acceleration of stochastic
approximation by averaging", 1992; Izmailov et al., "Averaging weights leads to wider optima and better generalization",
UAI 2018. Only what was released is averaged, so it costs no privacy.
"""

from __future__ import annotations

import numpy as np

from fedhealth.errors import ConfigError
from fedhealth.types import State


class RoundAverage:
    """mean_r = ema x mean_(r-1) + (1 - ema) x model_r, divided by 1 - ema^r (as Adam's moments are).

    Args:
        ema: weight of the mean of the rounds before; 0 takes the last model.

    Attributes:
        state: the mean before the division, saved in every checkpoint; empty for `ema` 0.

    """

    def __init__(self, ema: float = 0.0) -> None:
        if not 0 <= ema < 1:
            raise ConfigError(f"strategy.ema: {ema} is not in [0, 1).", "Use 0 for no average, or such as 0.7.")
        self.ema, self.state = ema, State()

    def add_model(self, model: State) -> None:
        """Add the model of the next round."""
        if self.ema:
            kept, added = np.float32(self.ema), np.float32(1 - self.ema)
            self.state = {n: kept * self.state.get(n, np.zeros_like(a)) + added * a for n, a in model.items()}

    def get_mean(self, model: State, rounds: int) -> State:
        """Return the mean after a number of rounds; without averaging the last model itself."""
        if not self.ema:
            return model
        weight = 1 - self.ema**rounds
        return {name: (self.state[name] / weight).astype(array.dtype) for name, array in model.items()}
