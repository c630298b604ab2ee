"""Bugs in client-level privacy."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch

from benchmarks.mutants.books import ignore_the_run_limit, pay_again
from benchmarks.mutants.noise import draw_uniform_noise
from benchmarks.mutants.subject import Planter
from fedhealth.privacy.accounting import accountant, plan
from fedhealth.privacy.engines.client_level import clip_and_noise_update
from fedhealth.privacy.mechanisms.gaussian_noise import NoiseSource
from fedhealth.training import client_dp_trainer
from fedhealth.training.client_dp_trainer import ClientDPTrainer

_add_noise = NoiseSource.add_


def _patch_mechanism(change: Callable[[Any, Any, Any, Any], Any]) -> Any:
    release = clip_and_noise_update
    changed = lambda update, made, noise: change(release, update, made, noise)  # noqa: E731
    return patch.object(client_dp_trainer, "clip_and_noise_update", changed)


def _halve_noise() -> Any:
    return patch.object(NoiseSource, "add_", lambda self, total, std: _add_noise(self, total, std / 2))


def _noise_unclipped() -> Any:
    def release(right: Any, update: Any, made: Any, noise: NoiseSource) -> Any:
        return {name: noise.add_(value.clone(), made.noise_std) for name, value in update.items()}

    return _patch_mechanism(release)


def _clip_each_tensor() -> Any:
    def release(right: Any, update: Any, made: Any, noise: NoiseSource) -> Any:
        return {name: right({name: value}, made, noise)[name] for name, value in update.items()}

    return _patch_mechanism(release)


def _pass_small_updates() -> Any:
    """Leave an update within the bound as it is."""

    def release(right: Any, update: Any, made: Any, noise: NoiseSource) -> Any:
        norm = math.sqrt(sum(float(value.double().square().sum()) for value in update.values()))
        return right(update, made, noise) if norm > made.clipping.max_grad_norm else update

    return _patch_mechanism(release)


@contextmanager
def _seed_noise_by_round() -> Iterator[None]:
    protect, generator = ClientDPTrainer.protect_update, torch.Generator()

    def protect_seeded(self: Any, update: Any, task: Any, accounting: Any) -> Any:
        generator.manual_seed(accounting.round)
        return protect(self, update, task, accounting)

    def add(self: NoiseSource, total: torch.Tensor, std: float) -> torch.Tensor:
        return total.add_(torch.randn(total.shape, generator=generator, dtype=total.dtype) * std)

    with patch.object(ClientDPTrainer, "protect_update", protect_seeded), patch.object(NoiseSource, "add_", add):
        yield


def _calibrate_one_round() -> Any:
    calibrate = accountant.calibrate_noise_multiplier
    return patch.object(
        plan, "calibrate_noise_multiplier", lambda t, d, q, steps, others=(): calibrate(t, d, q, 1, others)
    )


def _report_statistics() -> Any:
    return patch.object(ClientDPTrainer, "release_statistics", lambda self, statistics, task, accounting: statistics)


def _report_weights() -> Any:
    return patch.object(ClientDPTrainer, "compute_aggregation_weights", lambda self, rows: dict(rows))


CLIENTS: dict[str, Planter] = {
    "noise halved": _halve_noise,
    "clip off": _noise_unclipped,
    "every tensor clipped on its own": _clip_each_tensor,
    "small updates without noise": _pass_small_updates,
    "noise seeded by the round": _seed_noise_by_round,
    "uniform noise": draw_uniform_noise,
    "calibrated for one round": _calibrate_one_round,
    "a released booking pays again": pay_again,
    "run limit not checked": ignore_the_run_limit,
    "statistics released": _report_statistics,
    "exact weights": _report_weights,
}
