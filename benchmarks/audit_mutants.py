"""Bugs that break privacy, planted at run time: does the audit catch each, and is right code never blamed?

`python -m benchmarks.audit_mutants [--only NAME ...] [--seeds N]` prints one line a bug, one a group, and as its last
line `20 of 20 caught, 0 of 20 false alarms`: twenty bugs that were known when the audit was written, and right code
with 20 seeds. The other groups are bugs of somebody who had not read the audit, bugs in client-level privacy
(`stranger_mutants`) and in shares of the noise (`share_mutants`). The subject is one hospital with several studies a
patient, images left out.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from benchmarks.mutant_subject import (
    OwnClipping,
    Planter,
    audit_client,
    audit_subject,
    clear_caches,
    list_failures,
    use_engine,
)
from benchmarks.share_mutants import SHARES, audit_shares
from benchmarks.stranger_mutants import CLIENTS, STRANGERS
from fedhealth.privacy.accounting import accountant, budget, plan
from fedhealth.privacy.accounting.ledger import Ledger
from fedhealth.privacy.auditing.release_checks import AuditFinding
from fedhealth.privacy.engines.dp_optimizer import NoisyOptimizer
from fedhealth.privacy.mechanisms import poisson_sampler
from fedhealth.privacy.mechanisms.gaussian_noise import NoiseSource
from fedhealth.privacy.mechanisms.noised_counts import NOISE, encode_counts
from fedhealth.privacy.mechanisms.poisson_sampler import PatientSampler, PhysicalBatch
from fedhealth.training import dpsgd_trainer
from fedhealth.training.dpsgd_trainer import DPSGDTrainer
from fedhealth.training.private_batches import load_physical_batches

RIGHT: dict[str, dict[str, Any]] = {
    "tower": {"clipping": "tower"},
    "automatic": {"clipping": "automatic"},
    "a bound of 2": {"max_grad_norm": 2.0},
    "record": {"unit": "record"},
}
"""Settings of right code beside the subject's own."""

# --- the bugs ---

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
    def release(histograms: Any, noise_multiplier: float, noise: NoiseSource) -> dict[str, np.ndarray]:
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


Audit = Callable[..., tuple[AuditFinding, ...]]
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


@contextmanager
def plant_mutant(planter: Planter) -> Iterator[None]:
    """Plant one bug for the time of the context."""
    clear_caches()
    try:
        with planter():
            yield
    finally:
        clear_caches()


def main() -> None:
    """Plant, audit and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", help="names of bugs, of any group")
    parser.add_argument("--seeds", type=int, default=20, help="audits of right code")
    options = parser.parse_args()
    torch.set_num_threads(1)

    def count_caught(bugs: Mapping[str, tuple[Planter, Mapping[str, Any]]], audit: Audit) -> str:
        chosen = {name: bug for name, bug in bugs.items() if not options.only or name in options.only}
        return f"{sum(_is_caught(name, *bug, audit) for name, bug in chosen.items())} of {len(chosen)}"

    print(f"{count_caught(STRANGERS, audit_subject)} caught that strangers planted", flush=True)
    print(f"{count_caught(_add_settings(CLIENTS), audit_client)} caught in client-level privacy", flush=True)
    print(f"{count_caught(_add_settings(SHARES), audit_shares)} caught in shared noise", flush=True)
    for name, settings in RIGHT.items():
        if failures := list_failures(audit_subject(**settings)):
            print(f"right code, {name}: {failures}", flush=True)
    alarms = sum(_is_blamed(seed) for seed in range(options.seeds))
    caught = count_caught(_add_settings(MUTANTS), audit_subject)
    print(f"{caught} caught, {alarms} of {options.seeds} false alarms")


def _add_settings(bugs: Mapping[str, Planter]) -> dict[str, tuple[Planter, Mapping[str, Any]]]:
    return {name: (planter, {}) for name, planter in bugs.items()}


def _is_caught(name: str, planter: Planter, settings: Mapping[str, Any], audit: Audit) -> bool:
    started = time.process_time()
    with plant_mutant(planter):
        failures = list_failures(audit(**settings))
    print(f"{name:38} {failures[0] if failures else 'NOT CAUGHT'}  ({time.process_time() - started:.1f} s)", flush=True)
    return bool(failures)


def _is_blamed(seed: int) -> bool:
    """Return whether an audit of right code fails, by patient or by client."""
    failures = list_failures((*audit_subject(seed), *audit_client(seed)))
    if failures:
        print(f"right code, seed {seed}: {failures}", flush=True)
    return bool(failures)


if __name__ == "__main__":
    main()
