"""FedSGD: the sites' gradients drive one torch optimizer, which the lead keeps over all rounds.

McMahan et al., AISTATS 2017, section 3: one step of the consortium per round. Adam's moments, momentum, weight decay,
the schedule of the learning rate and the mean of the last iterates (Polyak and Juditsky, 1992) only use what the
hospitals have released, so they cost no privacy.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

from fedhealth.config.schema import Schedule
from fedhealth.errors import ConfigError
from fedhealth.training.optimizers import MakeOptimizer, make_optimizer
from fedhealth.training.schedule import compute_rate_factor
from fedhealth.types import State
from strategies.server_optimizers.base import add_change, is_running_statistic

_STEPS, _MEAN = "steps", "mean."


class TrainingOptimizer:
    """Apply `training.optimizer` to the negative mean gradient of all sites.

    Args:
        optimizer: a torch optimizer without its parameters.
        encoder_lr: factor on the learning rate of encoders.
        rounds: of the run.
        schedule: of the learning rate over the rounds: constant, or falling to zero along a line or half a cosine.
        warmup: number of first rounds in which the learning rate rises.
        averaged_share: share of the last rounds whose models are averaged into the final one; 0 takes the last model.

    Raises:
        ConfigError: a share, a schedule or a number of rounds is out of range.

    """

    needs_gradients = True

    def __init__(
        self,
        optimizer: MakeOptimizer,
        encoder_lr: float = 1.0,
        rounds: int = 1,
        schedule: Schedule | str = Schedule.constant,
        warmup: int = 0,
        averaged_share: float = 0.0,
    ) -> None:
        try:
            self.schedule = Schedule(schedule)
        except ValueError as fault:
            known = ", ".join(each.value for each in Schedule)
            raise ConfigError(f"There is no schedule {schedule!r}.", f"Use one of {known}.") from fault
        if not 0 <= averaged_share <= 1 or not 0 <= warmup <= rounds:
            raise ConfigError(
                f"averaged_share={averaged_share} or warmup={warmup} is out of range for {rounds} rounds.",
                "The share lies between 0 and 1, the warm-up between 0 and the number of rounds.",
            )
        self._make, self.encoder_lr, self.rounds = optimizer, encoder_lr, rounds
        self.warmup, self.averaged_rounds = warmup, round(averaged_share * rounds)
        self.state: State = {}

    def step(self, arrays: State, update: State) -> State:
        """Return the arrays after one step; after the last round, the mean of the last models; same shapes."""
        number = int(self.state.get(_STEPS, np.zeros(1))[0]) + 1
        stepped = dict(arrays)
        stepped |= {n: add_change(arrays[n], change) for n, change in update.items() if is_running_statistic(n)}
        named = {
            name: nn.Parameter(torch.from_numpy(np.array(arrays[name])))
            for name in sorted(update)
            if not is_running_statistic(name)
        }
        if named:
            self._take_step(named, update, self.compute_rate_factor(number))
        self.state[_STEPS] = np.array([number], np.float32)
        stepped |= {name: parameter.detach().numpy() for name, parameter in named.items()}
        return self._average_last(stepped, number)

    def compute_rate_factor(self, number: int) -> float:
        """Return the factor on the learning rate in a round, from 1."""
        return compute_rate_factor(self.schedule, self.warmup, self.rounds, number)

    def _take_step(self, named: dict[str, nn.Parameter], update: State, factor: float) -> None:
        """Step the parameters in place with the state of the last step, and keep the new state."""
        optimizer = make_optimizer(self._make, self.encoder_lr, named)
        for group in optimizer.param_groups:
            group["lr"] *= factor
        self._load_state(optimizer, named)
        for name, parameter in named.items():
            parameter.grad = torch.from_numpy(-np.asarray(update[name], np.float32))
        optimizer.step()
        self._save_state(optimizer, named)

    def _load_state(self, optimizer: Optimizer, named: dict[str, nn.Parameter]) -> None:
        for key, value in self.state.items():
            field, _, name = key.partition(".")
            if name in named and not key.startswith(_MEAN):
                optimizer.state[named[name]][field] = torch.from_numpy(np.array(value))

    def _save_state(self, optimizer: Optimizer, named: dict[str, nn.Parameter]) -> None:
        for name, parameter in named.items():
            for field, value in optimizer.state[parameter].items():
                if isinstance(value, torch.Tensor):
                    self.state[f"{field}.{name}"] = value.numpy()
                elif value is not None:
                    raise ConfigError(
                        f"The lead cannot keep the state {field!r} of {type(optimizer).__name__} over the rounds.",
                        "Use an optimizer whose state is tensors, such as torch.optim.SGD, Adam or AdamW.",
                    )

    def _average_last(self, arrays: State, number: int) -> State:
        """Keep the running mean of the last models; return it in place of the last one."""
        count = number - (self.rounds - self.averaged_rounds)
        if count < 1:
            return arrays
        for name, array in arrays.items():
            mean = self.state.get(_MEAN + name, np.zeros_like(array))
            self.state[_MEAN + name] = add_change(mean, (array - mean) / np.float32(count))
        if number < self.rounds:
            return arrays
        return {name: self.state[_MEAN + name] for name in arrays}
