"""Keep the best state of a baseline during its training, by the rule that chooses the federation's best round."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping

from torch import nn


class BestState:
    """The state of a model with the highest score, among those after every `every` steps.

    Args:
        model: in training.
        score: returns its validation score, NaN where it is not defined.
        every: number of optimizer steps.

    """

    def __init__(self, model: nn.Module, score: Callable[[], float], every: int) -> None:
        self._model, self._score, self._every = model, score, max(1, every)
        self._best, self._state = -math.inf, {}  # type: ignore[var-annotated]

    def score_step(self, step: int, parameters: Mapping[str, nn.Parameter]) -> None:
        """Score the model before a step (a gradient hook, which changes no gradient)."""
        if step and step % self._every == 0:
            self._keep_better()

    def restore_best(self) -> None:
        """Score the last state and load the best one; the last one where no score is defined."""
        self._keep_better()
        if self._state:
            self._model.load_state_dict(self._state)

    def _keep_better(self) -> None:
        found = self._score()
        if found > self._best:
            self._best, self._state = found, copy.deepcopy(self._model.state_dict())
