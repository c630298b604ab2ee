"""Bugs in the step around the noise: what patients move besides the noised sum."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import torch

from benchmarks.mutants.subject import Bugs
from fedhealth.privacy.engines.dp_optimizer import NoisyOptimizer
from fedhealth.privacy.engines.step import take_private_step
from fedhealth.training import dpsgd_trainer


def _wrap_step(wrapper: Callable[[Callable[..., None], Any, Any, list[Any]], None]) -> Any:
    take = take_private_step
    return patch.object(dpsgd_trainer, "take_private_step", lambda e, o, physical: wrapper(take, e, o, list(physical)))


def _skip_empty_batches() -> Any:
    def step(take: Callable[..., None], engine: Any, optimizer: Any, physical: list[Any]) -> None:
        if physical:
            take(engine, optimizer, physical)

    return _wrap_step(step)


def _measure_loss(engine: Any, physical: list[Any]) -> float:
    with torch.no_grad():
        return sum(float(engine._loss_fn(engine._model, batch).sum()) for batch, _ in physical)


def _undo_worse_steps() -> Any:
    def step(take: Callable[..., None], engine: Any, optimizer: Any, physical: list[Any]) -> None:
        before, loss = [p.detach().clone() for p in optimizer.params], _measure_loss(engine, physical)
        take(engine, optimizer, physical)
        if _measure_loss(engine, physical) > loss:
            with torch.no_grad():
                for parameter, old in zip(optimizer.params, before, strict=True):
                    parameter.copy_(old)

    return _wrap_step(step)


def _follow_the_loss() -> Any:
    def step(take: Callable[..., None], engine: Any, optimizer: Any, physical: list[Any]) -> None:
        rows = max(sum(len(owners) for _, owners in physical), 1)
        groups = optimizer.original_optimizer.param_groups
        kept, factor = [group["lr"] for group in groups], min(1.0, _measure_loss(engine, physical) / rows)
        for group in groups:
            group["lr"] *= factor
        take(engine, optimizer, physical)
        for group, rate in zip(groups, kept, strict=True):
            group["lr"] = rate

    return _wrap_step(step)


def _scale_by_unnoised_moments() -> Any:
    def pre_step(self: Any, closure: Any = None) -> bool:
        sums = [torch.zeros_like(p) if p.summed_grad is None else p.summed_grad.clone() for p in self.params]
        self._allowed_steps -= 1
        self.add_noise()
        self.scale_grad()
        for parameter, total in zip(self.params, sums, strict=True):
            moments = self.__dict__.setdefault("moments", {})
            squared = (total / self._plan.expected_batch_size).square()
            moments[parameter] = 0.9 * moments.get(parameter, 0.0) + 0.1 * squared
            parameter.grad = parameter.grad / (moments[parameter].sqrt() + 1e-2)
        if self._after_noise:
            self._after_noise(self.params)
        self._is_last_step_skipped = False
        return True

    return patch.object(NoisyOptimizer, "pre_step", pre_step)


STEPS: Bugs = {
    "empty batches skipped": (_skip_empty_batches, {}),
    "second moments before the noise": (_scale_by_unnoised_moments, {}),
    "a worse step is undone": (_undo_worse_steps, {}),
    "learning rate by the loss": (_follow_the_loss, {}),
}
"""Planter, and settings of the trainer, by name."""
