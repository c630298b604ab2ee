"""Bugs that somebody planted who had not read the audit, and bugs in client-level privacy; for `audit_mutants`."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from benchmarks.mutant_subject import OwnClipping, use_engine
from fedhealth.privacy import statistics_release
from fedhealth.privacy.accounting import accountant, booking, budget, limits, plan
from fedhealth.privacy.engines import book_keeping
from fedhealth.privacy.engines.base import compute_clip_factors, get_trainable_parameters, select_rows
from fedhealth.privacy.engines.client_level import clip_and_noise_update
from fedhealth.privacy.engines.dp_optimizer import NoisyOptimizer
from fedhealth.privacy.engines.step import take_private_step
from fedhealth.privacy.mechanisms import poisson_sampler
from fedhealth.privacy.mechanisms.clipping import Clipping
from fedhealth.privacy.mechanisms.gaussian_noise import NoiseSource
from fedhealth.privacy.mechanisms.histogram_release import noise_histograms
from fedhealth.privacy.mechanisms.poisson_sampler import PatientSampler, PhysicalBatch
from fedhealth.training import client_dp_trainer, dpsgd_trainer
from fedhealth.training.client_dp_trainer import ClientDPTrainer
from fedhealth.training.dpsgd_trainer import DPSGDTrainer
from fedhealth.training.private_batches import build_loss_fn, load_physical_batches, load_unit_batch

_add_noise = NoiseSource.add_
_TENSORS = 13  # of the subject's model


# --- the sampler ---


def _draw_once_per_round() -> Any:
    draw_steps = PatientSampler.__iter__

    def draw(self: PatientSampler) -> Iterator[list[PhysicalBatch]]:
        first = next(iter(draw_steps(self)))
        for _ in range(self._steps):
            yield first

    return patch.object(PatientSampler, "__iter__", draw)


def _draw_studies() -> Any:
    """Draw a patient if one of the studies is drawn."""

    def draw(self: PatientSampler) -> Iterator[list[PhysicalBatch]]:
        for _ in range(self._steps):
            chances = [poisson_sampler._draw_uniforms(len(rows)).min() for rows in self._rows]
            yield list(self._pack_batches([n for n, least in enumerate(chances) if least < self._sample_rate]))

    return patch.object(PatientSampler, "__iter__", draw)


def _shuffle_epochs() -> Any:
    def draw(self: PatientSampler) -> Iterator[list[PhysicalBatch]]:
        parts, generator = max(1, round(1 / self._sample_rate)), np.random.default_rng()
        left: list[list[int]] = []
        for _ in range(self._steps):
            left = left or [part.tolist() for part in np.array_split(generator.permutation(len(self._rows)), parts)]
            yield list(self._pack_batches(sorted(left.pop())))

    return patch.object(PatientSampler, "__iter__", draw)


def _seed_sampler() -> Any:
    def draw(self: PatientSampler) -> Iterator[list[PhysicalBatch]]:
        generator = np.random.default_rng(42)
        for _ in range(self._steps):
            drawn = np.flatnonzero(generator.random(len(self._rows)) < self._sample_rate)
            yield list(self._pack_batches(drawn.tolist()))

    return patch.object(PatientSampler, "__iter__", draw)


def _repeat_last_patient() -> Any:
    """Let the last patient of a physical batch open the next one, too."""

    def pack_rows(self: PatientSampler, drawn: list[int]) -> Iterator[PhysicalBatch]:
        rows: list[int] = []
        patients: list[int] = []
        for before, patient in zip([*drawn[:1], *drawn], drawn, strict=False):
            chosen = self._cap_records(self._rows[patient])
            if rows and len(rows) + len(chosen) > self._max_physical_batch_size:
                yield PhysicalBatch(rows, patients)
                rows = self._cap_records(self._rows[before])
                patients = [before] * len(rows)
            rows, patients = rows + chosen, patients + [patient] * len(chosen)
        if rows:
            yield PhysicalBatch(rows, patients)

    return patch.object(PatientSampler, "_pack_batches", pack_rows)


def _count_padding() -> Any:
    load = load_physical_batches

    def load_padded(examples: Any, physical: Iterable[PhysicalBatch], device: torch.device) -> Any:
        parts = []
        for part in physical:
            extra = -len(part.rows) % 8
            parts.append(PhysicalBatch(part.rows + part.rows[:1] * extra, part.patients + [-1] * extra))
        return load(examples, parts, device)

    return patch.object(dpsgd_trainer, "load_physical_batches", load_padded)


# --- clipping ---


def _scale(gradients: list[torch.Tensor], bound: float, norm: float) -> list[torch.Tensor]:
    return [part * min(1.0, bound / max(norm, 1e-12)) for part in gradients]


class _StaleNorm(OwnClipping):
    """Clips by the norm at the same place of the batch before."""

    def clip(self, gradients: list[torch.Tensor], norms: list[float], place: int) -> list[torch.Tensor]:
        """Return the clipped gradients."""
        before = self.__dict__.setdefault("before", {})
        stale = before.get(place, norms[place])
        before[place] = norms[place]
        return _scale(gradients, self.bound, stale)


class _NoCrossTerms(OwnClipping):
    """Takes the norm of a sum of rows for the root of the sum of their squared norms."""

    def accumulate(self, batch: Any, patients: Sequence[int]) -> Any:
        self._batch, self._owners = batch, list(patients)
        return super().accumulate(batch, patients)

    def clip(self, gradients: list[torch.Tensor], norms: list[float], place: int) -> list[torch.Tensor]:
        """Return the clipped gradients."""
        owner, squared = list(dict.fromkeys(self._owners))[place], 0.0
        named = list(get_trainable_parameters(self._model).values())
        for row in [row for row, each in enumerate(self._owners) if each == owner]:
            loss = self._loss_fn(self._model, select_rows(self._batch, [row], len(self._owners))).sum()
            found = torch.autograd.grad(loss, named, allow_unused=True)
            squared += sum(float(part.square().sum()) for part in found if part is not None)
        return _scale(gradients, self.bound, math.sqrt(squared))


class _ClampValues(OwnClipping):
    """Clamps every value instead of the norm."""

    def clip(self, gradients: list[torch.Tensor], norms: list[float], place: int) -> list[torch.Tensor]:
        """Return the clipped gradients."""
        return [part.clamp(-self.bound, self.bound) for part in gradients]


class _PerTensor(OwnClipping):
    """Clips every tensor on its own."""

    def clip(self, gradients: list[torch.Tensor], norms: list[float], place: int) -> list[torch.Tensor]:
        """Return the clipped gradients."""
        return [_scale([part], self.bound, float(part.norm()))[0] for part in gradients]


class _SkipSingle(OwnClipping):
    """Clips patients with several studies only."""

    def accumulate(self, batch: Any, patients: Sequence[int]) -> Any:
        self._counts = [list(patients).count(each) for each in dict.fromkeys(patients)]
        return super().accumulate(batch, patients)

    def clip(self, gradients: list[torch.Tensor], norms: list[float], place: int) -> list[torch.Tensor]:
        """Return the clipped gradients."""
        return gradients if self._counts[place] == 1 else _scale(gradients, self.bound, norms[place])


class _SkipClass(OwnClipping):
    """Clips no patient of the positive class."""

    def accumulate(self, batch: Any, patients: Sequence[int]) -> Any:
        owners = list(patients)
        self._positive = [
            bool((batch["targets"][[row for row, each in enumerate(owners) if each == owner]] == 1).all())
            for owner in dict.fromkeys(owners)
        ]
        return super().accumulate(batch, patients)

    def clip(self, gradients: list[torch.Tensor], norms: list[float], place: int) -> list[torch.Tensor]:
        """Return the clipped gradients."""
        return gradients if self._positive[place] else _scale(gradients, self.bound, norms[place])


def _give_each_tower_the_bound() -> Any:
    def compute(self: Clipping, squared: torch.Tensor) -> torch.Tensor:
        return (self.max_grad_norm / squared.sqrt().clamp(min=1e-30)).clamp(max=1.0)

    return patch.object(Clipping, "compute_factors", compute)


def _clip_by_the_root() -> Any:
    def compute(self: Clipping, squared: torch.Tensor) -> torch.Tensor:
        return self.max_grad_norm / (squared.sqrt().sqrt() + 0.01)

    return patch.object(Clipping, "compute_factors", compute)


def _forget_the_bound() -> Any:
    return patch.object(plan.PrivacyPlan, "noise_std", property(lambda self: self.noise_multiplier))


def _raise_on_overflow() -> Any:
    compute = compute_clip_factors

    def compute_or_raise(clipping: Any, squared: torch.Tensor, losses: torch.Tensor) -> Any:
        if not bool(squared.isfinite().all() & losses.isfinite().all()):
            raise ValueError("gradient is not finite")
        return compute(clipping, squared, losses)

    return patch.object(book_keeping, "compute_clip_factors", compute_or_raise)


# --- the noise ---


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


def _uniform_noise() -> Any:
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


# --- the step ---


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


# --- the books, and what else leaves ---


@contextmanager
def _book_one_step() -> Iterator[None]:
    allow = NoisyOptimizer.allow_steps

    def allow_all(self: Any, event: Any) -> None:
        allow(self, event)
        self._allowed_steps = self._plan.steps

    event = property(lambda self: accountant.PrivacyEvent(self.noise_multiplier, self.sample_rate, 1))
    with (
        patch.object(plan.PrivacyPlan, "round_event", event),
        patch.object(NoisyOptimizer, "allow_steps", allow_all),
    ):
        yield


def _pay_again() -> Any:
    book = budget.PrivacyBudget.book

    def find_or_book(self: Any, ledger: Any, made: Any, accounting: Any, event: Any) -> Any:
        for each in booking.find_bookings(ledger.entries, accounting.run, accounting.purpose):
            if each.rounds[-1] == accounting.round and each.entry.event == event:
                return each.entry
        return book(self, ledger, made, accounting, event)

    return patch.object(budget.PrivacyBudget, "book", find_or_book)


def _draw_scores_anew() -> Any:
    def release(spent: Any, made: Any, event: Any, accounting: Any, draw: Callable[[], Any]) -> Any:
        with spent.open_ledger(accounting.folder) as ledger:
            if not booking.find_bookings(ledger.entries, accounting.run, accounting.purpose):
                spent.book(ledger, made, replace(accounting, round=accounting.rounds + 1), event)
        return draw()

    return patch.object(statistics_release, "_release_once", release)


def _mistake_delta() -> Any:
    calibrate = accountant.calibrate_noise_multiplier
    return patch.object(
        plan, "calibrate_noise_multiplier", lambda t, delta, q, steps, others=(): calibrate(t, 1e-3, q, steps, others)
    )


def _score_all_studies() -> Any:
    return patch.object(DPSGDTrainer, "select_scored_rows", lambda self, examples, rows: rows)


def _ignore_the_run_limit() -> Any:
    return patch.object(limits, "_find_run_excess", lambda *_: "")


def _send_unnoised_gradients() -> Any:
    protect = DPSGDTrainer.protect_update

    def protect_and_leak(self: Any, update: Any, task: Any, accounting: Any) -> Any:
        task.model.zero_grad()
        batch = load_unit_batch(task.examples, list(task.rows), torch.device("cpu"))
        build_loss_fn(task.kind)(task.model, batch).mean().backward()  # type: ignore[no-untyped-call]
        named = {name: p.grad for name, p in task.model.named_parameters() if p.grad is not None}
        extra = {f"method.scaffold.{name}": grad.numpy().copy() for name, grad in named.items()}
        return protect(self, update, task, accounting) | extra

    return patch.object(DPSGDTrainer, "protect_update", protect_and_leak)


def _noise_scores_by_one() -> Any:
    noise = noise_histograms
    return patch.object(statistics_release, "noise_histograms", lambda counts, z, source: noise(counts, 1.0, source))


STRANGERS: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "one batch for the whole round": (_draw_once_per_round, {}),
    "studies drawn, not patients": (_draw_studies, {}),
    "shuffled epochs": (_shuffle_epochs, {}),
    "a seeded sampler": (_seed_sampler, {}),
    "last patient in two micro-batches": (_repeat_last_patient, {}),
    "padding rows counted": (_count_padding, {}),
    "a stale clipping norm": (use_engine(_StaleNorm), {}),
    "ghost norm without cross terms": (use_engine(_NoCrossTerms), {}),
    "values clamped instead of the norm": (use_engine(_ClampValues), {}),
    "every tensor clipped on its own": (use_engine(_PerTensor), {}),
    "single studies not clipped": (use_engine(_SkipSingle), {}),
    "one class not clipped": (use_engine(_SkipClass), {}),
    "towers without the root of K": (_give_each_tower_the_bound, {"clipping": "tower"}),
    "automatic clipping by the root": (_clip_by_the_root, {"clipping": "automatic"}),
    "deviation without the bound": (_forget_the_bound, {"max_grad_norm": 2.0}),
    "the same noise in every step": (_same_noise_every_step, {}),
    "antithetic noise": (_antithetic_noise, {}),
    "noise seeded by run and round": (_seed_noise_by_round, {}),
    "noise broadcast over rows": (_broadcast_noise, {}),
    "uniform noise": (_uniform_noise, {}),
    "noise cut at two deviations": (_cut_noise, {}),
    "the head without noise": (_leave_out_the_head, {}),
    "no noise where nobody contributed": (_leave_out_the_untouched, {}),
    "empty batches skipped": (_skip_empty_batches, {}),
    "sums not zeroed between steps": (_keep_sums, {}),
    "second moments before the noise": (_scale_by_unnoised_moments, {}),
    "a worse step is undone": (_undo_worse_steps, {}),
    "learning rate by the loss": (_follow_the_loss, {}),
    "a value that is not finite raises": (_raise_on_overflow, {}),
    "a round booked as one step": (_book_one_step, {}),
    "a released booking pays again": (_pay_again, {}),
    "scores drawn anew": (_draw_scores_anew, {}),
    "delta mistaken": (_mistake_delta, {}),
    "all studies scored": (_score_all_studies, {}),
    "run limit not checked": (_ignore_the_run_limit, {}),
    "un-noised control variates": (_send_unnoised_gradients, {}),
    "score noise of deviation 1": (_noise_scores_by_one, {}),
}
"""Planter, and settings of the trainer, by name."""


# --- client-level privacy ---


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
def _seed_noise_by_round_of_clients() -> Iterator[None]:
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


CLIENTS: dict[str, Callable[[], Any]] = {
    "noise halved": _halve_noise,
    "clip off": _noise_unclipped,
    "every tensor clipped on its own": _clip_each_tensor,
    "small updates without noise": _pass_small_updates,
    "noise seeded by the round": _seed_noise_by_round_of_clients,
    "uniform noise": _uniform_noise,
    "calibrated for one round": _calibrate_one_round,
    "a released booking pays again": _pay_again,
    "run limit not checked": _ignore_the_run_limit,
    "statistics released": _report_statistics,
    "exact weights": _report_weights,
}
