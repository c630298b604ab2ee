"""Bugs in the noise: its law, where it is added, and whether it is fresh."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch

from benchmarks.mutants.subject import Bugs
from fedhealth.privacy.engines.dp_optimizer import NoisyOptimizer
from fedhealth.privacy.mechanisms.gaussian_noise import NoiseSource
from fedhealth.training.dpsgd_trainer import DPSGDTrainer

_add_noise = NoiseSource.add_
_TENSORS = 13  # of the subject's model


def _keep_noise(sign: Callable[[int], float], period: int) -> Any:
    """Draw noise in every `period`-th step of a fit only, and use it again, with a sign, in the others."""

    def add(self: NoiseSource, total: torch.Tensor, std: float) -> torch.Tensor:
        count, drawn = self.__dict__.setdefault("count", itertools.count()), self.__dict__.setdefault("drawn", {})
        step, place = divmod(next(count), _TENSORS)
        if step % period == 0:
            drawn[place] = _add_noise(self, torch.zeros_like(total), std)
        return total.add_(drawn[place], alpha=sign(step))

    return patch.object(NoiseSource, "add_", add)


def _same_noise_every_step() -> Any:
    return _keep_noise(lambda step: 1.0, 10**9)


def _antithetic_noise() -> Any:
    return _keep_noise(lambda step: 1.0 if step % 2 == 0 else -1.0, 2)


@contextmanager
def _seed_noise_by_round() -> Iterator[None]:
    fit, generator = DPSGDTrainer.fit, torch.Generator()

    def fit_seeded(self: Any, task: Any, accounting: Any = None) -> Any:
        digest = hashlib.sha256(f"{accounting.run} {accounting.round}".encode()).digest()
        generator.manual_seed(int.from_bytes(digest[:6], "big"))
        return fit(self, task, accounting)

    def add(self: NoiseSource, total: torch.Tensor, std: float) -> torch.Tensor:
        return total.add_(torch.randn(total.shape, generator=generator, dtype=total.dtype) * std)

    with patch.object(DPSGDTrainer, "fit", fit_seeded), patch.object(NoiseSource, "add_", add):
        yield


def _draw_noise(draw: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    def add(self: NoiseSource, total: torch.Tensor, std: float) -> torch.Tensor:
        return total.add_(draw(torch.empty(total.shape, dtype=total.dtype)) * std)

    return patch.object(NoiseSource, "add_", add)


def _broadcast_noise() -> Any:
    def add(self: NoiseSource, total: torch.Tensor, std: float) -> torch.Tensor:
        row = torch.zeros(total.shape[-1:] if total.dim() > 1 else total.shape, dtype=total.dtype)
        return total.add_(_add_noise(self, row, std))

    return patch.object(NoiseSource, "add_", add)


def draw_uniform_noise() -> Any:
    """Draw noise of the right deviation and the wrong law."""
    return _draw_noise(lambda empty: empty.uniform_(-math.sqrt(3), math.sqrt(3)))


def _cut_noise() -> Any:
    return _draw_noise(lambda empty: empty.normal_().clamp_(-2, 2))


def _patch_sums(release: Callable[[Any, torch.Tensor, int], torch.Tensor], keeps: bool = False) -> Any:
    def add_noise(self: Any) -> None:
        for place, parameter in enumerate(self.params):
            total = parameter.summed_grad
            parameter.grad = release(self, parameter if total is None else total, -1 if total is None else place)
            if not keeps:
                parameter.summed_grad = None

    return patch.object(NoisyOptimizer, "add_noise", add_noise)


def _leave_out_the_head() -> Any:
    def release(optimizer: Any, total: torch.Tensor, place: int) -> torch.Tensor:
        total = torch.zeros_like(total) if place < 0 else total
        is_head = place >= len(optimizer.params) - 2
        return total if is_head else optimizer._noise.add_(total, optimizer._plan.noise_std)

    return _patch_sums(release)


def _leave_out_the_untouched() -> Any:
    def release(optimizer: Any, total: torch.Tensor, place: int) -> torch.Tensor:
        return torch.zeros_like(total) if place < 0 else optimizer._noise.add_(total, optimizer._plan.noise_std)

    return _patch_sums(release)


@contextmanager
def _keep_sums() -> Iterator[None]:
    """Add the clipped sum of a step to all later ones, too."""

    def release(optimizer: Any, total: torch.Tensor, place: int) -> torch.Tensor:
        total = torch.zeros_like(total) if place < 0 else total.clone()
        return optimizer._noise.add_(total, optimizer._plan.noise_std)

    def clear(self: Any, set_to_none: bool = True) -> None:
        self.original_optimizer.zero_grad(set_to_none)

    with _patch_sums(release, keeps=True), patch.object(NoisyOptimizer, "zero_grad", clear):
        yield


NOISE: Bugs = {
    "the same noise in every step": (_same_noise_every_step, {}),
    "antithetic noise": (_antithetic_noise, {}),
    "noise seeded by run and round": (_seed_noise_by_round, {}),
    "noise broadcast over rows": (_broadcast_noise, {}),
    "uniform noise": (draw_uniform_noise, {}),
    "noise cut at two deviations": (_cut_noise, {}),
    "the head without noise": (_leave_out_the_head, {}),
    "no noise where nobody contributed": (_leave_out_the_untouched, {}),
    "sums not zeroed between steps": (_keep_sums, {}),
}
"""Planter, and settings of the trainer, by name."""
