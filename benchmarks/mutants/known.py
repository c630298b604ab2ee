"""Twenty bugs that were known when the audit was written."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from benchmarks.mutants.subject import (
    OwnClipping,
    Planter,
    use_engine,
)
from fedhealth.privacy.accounting import accountant, budget, plan
from fedhealth.privacy.accounting.ledger import Ledger
from fedhealth.privacy.engines.dp_optimizer import NoisyOptimizer
from fedhealth.privacy.mechanisms import poisson_sampler
from fedhealth.privacy.mechanisms.gaussian_noise import NoiseSource
from fedhealth.privacy.mechanisms.noised_counts import NOISE, encode_counts
from fedhealth.privacy.mechanisms.poisson_sampler import PatientSampler, PhysicalBatch
from fedhealth.training import dpsgd_trainer
from fedhealth.training.dpsgd_trainer import DPSGDTrainer
from fedhealth.training.private_batches import load_physical_batches

_add_noise = NoiseSource.add_
_TENSORS = 13  # of the subject's model


def _halve_noise() -> Any:
    return patch.object(NoiseSource, "add_", lambda self, total, std: _add_noise(self, total, std / 2))


def _truncate_sigma() -> Any:
    truncated = property(lambda self: max(1, int(self.noise_multiplier)) * self.clipping.max_grad_norm)
    return patch.object(plan.PrivacyPlan, "noise_std", truncated)


def _clip_per_study() -> Any:
    load = load_physical_batches

    def per_study(*arguments: Any) -> Iterator[Any]:
        for batch, patients in load(*arguments):
            yield batch, list(range(len(patients)))

    return patch.object(dpsgd_trainer, "load_physical_batches", per_study)


def _split_patients() -> Any:
    def pack_rows(self: PatientSampler, drawn: list[int]) -> Iterator[PhysicalBatch]:
        pairs = [(row, patient) for patient in drawn for row in self._cap_records(self._rows[patient])]
        for start in range(0, len(pairs), self._max_physical_batch_size):
            part = pairs[start : start + self._max_physical_batch_size]
            yield PhysicalBatch([row for row, _ in part], [patient for _, patient in part])

    return patch.object(PatientSampler, "_pack_batches", pack_rows)


def _noise_first_batch_only() -> Any:
    def take_step(engine: Any, optimizer: NoisyOptimizer, physical: Iterable[Any]) -> None:
        """Share the noise over micro-batches, but forget all shares but the first."""
        optimizer.zero_grad()
        count = 0
        for batch, patients in physical:
            engine.accumulate(batch, patients)
            count += 1
        shared = 1 / math.sqrt(max(count, 1))
        with patch.object(NoiseSource, "add_", lambda self, total, std: _add_noise(self, total, std * shared)):
            optimizer.step()

    return patch.object(dpsgd_trainer, "take_private_step", take_step)


def _sample_without_replacement() -> Any:
    def draw_steps(self: PatientSampler) -> Iterator[list[PhysicalBatch]]:
        generator, size = np.random.default_rng(), round(self._sample_rate * len(self._rows))
        for _ in range(self._steps):
            yield list(self._pack_batches(sorted(generator.permutation(len(self._rows))[:size].tolist())))

    return patch.object(PatientSampler, "__iter__", draw_steps)


def _double_rate() -> Any:
    draw = poisson_sampler._draw_uniforms
    return patch.object(poisson_sampler, "_draw_uniforms", lambda count: draw(count) / 2)


def _fix_noise_key() -> Any:
    rekey = NoiseSource._rekey

    def fixed(self: NoiseSource) -> None:
        with patch.object(os, "urandom", bytes):
            rekey(self)

    return patch.object(NoiseSource, "_rekey", fixed)


def _repeat_noise() -> Any:
    """Draw the same values for every tensor of a step."""
    calls = itertools.count()
    drawn: list[torch.Tensor] = []

    def repeat(self: NoiseSource, total: torch.Tensor, std: float) -> torch.Tensor:
        if next(calls) % _TENSORS == 0:
            drawn[:] = [_add_noise(NoiseSource(), torch.zeros(4096), 1.0)]
        values = drawn[0][: total.numel()].view_as(total)
        return total.add_(values.to(total.dtype) * std)

    return patch.object(NoiseSource, "add_", repeat)


def _release_exact_histograms() -> Any:
    def release(histograms: Any, *noise: Any) -> dict[str, np.ndarray]:
        found = {name: encode_counts(counts.astype(float)) for name, counts in histograms.items()}
        return found | {f"{split}.{NOISE}": encode_counts(np.ones(1)) for split in ("validation", "test")}

    return patch("fedhealth.privacy.statistics_release.noise_histograms", release)


def _release_loss() -> Any:
    release = DPSGDTrainer.release_statistics

    def leak(self: DPSGDTrainer, statistics: Any, task: Any, accounting: Any) -> Any:
        return {name: value for name, value in statistics.items() if name == "train.loss"} | release(
            self, statistics, task, accounting
        )

    return patch.object(DPSGDTrainer, "release_statistics", leak)


def _book_once() -> Any:
    book = budget.PrivacyBudget.book

    def first_only(self: Any, ledger: Ledger, made: Any, accounting: Any, event: Any) -> Any:
        for entry in ledger.entries:
            if (entry.kind, entry.run, entry.purpose) == ("book", accounting.run, accounting.purpose):
                return entry
        return book(self, ledger, made, accounting, event)

    return patch.object(budget.PrivacyBudget, "book", first_only)


@contextmanager
def _halve_epsilon() -> Iterator[None]:
    by_pld, gaussian = accountant._compute_epsilon_pld, accountant._compute_epsilon_gaussian
    with (
        patch.object(accountant, "_compute_epsilon_pld", lambda *call: by_pld(*call) / 2),
        patch.object(accountant, "_compute_epsilon_gaussian", lambda *call: gaussian(*call) / 2),
    ):
        yield


def _calibrate_fewer_rounds() -> Any:
    calibrate = accountant.calibrate_noise_multiplier

    def fewer(target: float, delta: float, rate: float, steps: int, others: Any = ()) -> float:
        return calibrate(target, delta, rate, max(1, steps // 2), others)

    return patch.object(plan, "calibrate_noise_multiplier", fewer)


class _SkippedVectors(OwnClipping):
    """Clips matrices only."""

    def clip(self, gradients: list[torch.Tensor], norms: list[float], place: int) -> list[torch.Tensor]:
        length = math.sqrt(sum(float(part.square().sum()) for part in gradients if part.dim() > 1))
        factor = min(1.0, self.bound / max(length, 1e-12))
        return [part * factor if part.dim() > 1 else part for part in gradients]


class _MeanNorm(OwnClipping):
    """Clips everybody by the mean norm of the physical batch."""

    def clip(self, gradients: list[torch.Tensor], norms: list[float], place: int) -> list[torch.Tensor]:
        return [part * min(1.0, self.bound / max(sum(norms) / len(norms), 1e-12)) for part in gradients]


class _NoClipping(OwnClipping):
    """Clips nobody."""

    def clip(self, gradients: list[torch.Tensor], norms: list[float], place: int) -> list[torch.Tensor]:
        return gradients


class _PerRow(OwnClipping):
    """Clips each row instead of each patient."""

    def group_rows(self, patients: Sequence[int]) -> list[list[int]]:
        return [[row] for row in range(len(patients))]

    def clip(self, gradients: list[torch.Tensor], norms: list[float], place: int) -> list[torch.Tensor]:
        return [part * min(1.0, self.bound / max(norms[place], 1e-12)) for part in gradients]


def _skip_small_tensors() -> Any:
    def skip(self: NoiseSource, total: torch.Tensor, std: float) -> torch.Tensor:
        return total if total.dim() == 1 and total.numel() < 16 else _add_noise(self, total, std)

    return patch.object(NoiseSource, "add_", skip)


def _divide_by_real_batch() -> Any:
    def take_step(engine: Any, optimizer: NoisyOptimizer, physical: Iterable[Any]) -> None:
        optimizer.zero_grad()
        real = 0
        for batch, patients in physical:
            engine.accumulate(batch, patients)
            real += len(set(patients))
        right = optimizer._plan
        optimizer._plan = replace(right, expected_batch_size=float(max(1, real)))
        optimizer.step()
        optimizer._plan = right

    return patch.object(dpsgd_trainer, "take_private_step", take_step)


MUTANTS: dict[str, Planter] = {
    "noise halved": _halve_noise,
    "sigma truncated to an integer": _truncate_sigma,
    "clipping per study in the loader": _clip_per_study,
    "a patient split over micro-batches": _split_patients,
    "noise only on the first micro-batch": _noise_first_batch_only,
    "sampling without replacement": _sample_without_replacement,
    "rate doubled": _double_rate,
    "a fixed noise key": _fix_noise_key,
    "the same noise in every tensor or step": _repeat_noise,
    "score histograms un-noised": _release_exact_histograms,
    "the un-noised loss released": _release_loss,
    "one booking per run": _book_once,
    "epsilon halved in the accountant": _halve_epsilon,
    "calibrated for fewer rounds": _calibrate_fewer_rounds,
    "clip skipped for biases and norms": use_engine(_SkippedVectors),
    "clip by the mean norm": use_engine(_MeanNorm),
    "clip off": use_engine(_NoClipping),
    "clip per row inside the engine": use_engine(_PerRow),
    "small tensors without noise": _skip_small_tensors,
    "normaliser by the real batch": _divide_by_real_batch,
}
