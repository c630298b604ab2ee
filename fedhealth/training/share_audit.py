"""Checks of a site's shares of the noise of secure sums, through the trainer's own rounds and releases.

What a site adds to a sum is read before it is masked: blank values, which are its share alone; each tensor, as the
difference of repeated rounds; a round with little noise, which shows the clipped sum; and tables of zeros. A share must
be noise of its planned size with whole tails, added before the rounding and after the clamp, and be drawn anew.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.stats import binom, norm

from fedhealth.config.schema import Sends
from fedhealth.privacy.accounting.accountant import PrivacyEvent
from fedhealth.privacy.accounting.plan import PrivacyPlan
from fedhealth.privacy.auditing.independent_numbers import clip_gradient, is_within_target
from fedhealth.privacy.auditing.noise_checks import (
    check_independence,
    check_noise_size,
    check_single_use,
    check_tails,
)
from fedhealth.privacy.auditing.release_checks import (
    AuditCheck,
    check_contribution,
    check_fact,
    check_sampling_law,
)
from fedhealth.privacy.context import AccountingContext
from fedhealth.privacy.mechanisms import noise_share
from fedhealth.privacy.mechanisms.noise_share import NoiseShare
from fedhealth.privacy.mechanisms.noised_counts import NOISE
from fedhealth.secagg.primitives.noise_grid import compute_grid_step, name_blanks
from fedhealth.training.audit_bench import COHORT, AuditBench
from fedhealth.training.fit_recording import RecordingExamples, to_vector
from fedhealth.training.release_audit import count_bookings
from fedhealth.training.trainer import TrainingTask

if TYPE_CHECKING:
    from fedhealth.training.dpsgd_trainer import DPSGDTrainer

HONEST = 3  # sites that the shares of the audit count on
_BLANKS = name_blanks("audit")
_ROUNDS, _BLANK_VALUES = 4, 1 << 18  # a million blank values in all
_SAMPLED_ROUNDS, _SAMPLE_RATE = 24, 0.25
_TAIL = 4.0  # standard deviations
_GRID = 1 / 16  # of a standard deviation: the coarsest
_OFFSET = 0.3  # of a step of the grid: a value that rounding before the noise would lose
_HISTOGRAM = (2, 60)


def check_shares(bench: AuditBench, plan: PrivacyPlan) -> Iterator[AuditCheck]:
    """Yield the checks of a trainer that shares noise.

    Args:
        bench: of the audit.
        plan: of the run.

    """
    limit = bench.trainer.budget.local_epsilon
    if limit < math.inf:
        within = is_within_target([_list_numbers(event.local) for event in plan.run_events], limit, plan.delta)
        yield check_fact("a share keeps the whole run within the local epsilon", within, f"limit {limit:g}")
    yield from _check_rounds(bench, plan.noise_multiplier)
    yield from _check_clipped_sum(bench)
    yield from _check_tables(bench)


def _list_numbers(event: PrivacyEvent) -> tuple[float, float, int]:
    return event.noise_multiplier, event.sample_rate, event.steps


def _check_rounds(bench: AuditBench, noise_multiplier: float) -> Iterator[AuditCheck]:
    """Check the shares of repeated rounds of the same patients, and their bookings."""
    trainer = _make_trainer(bench, noise_multiplier=noise_multiplier, sample_rate=1.0)
    std = noise_multiplier * trainer.max_grad_norm / math.sqrt(HONEST)
    rounds, accounting = _take_rounds(bench, trainer, std, "audit-shares", _ROUNDS, _BLANK_VALUES)
    booked = count_bookings(trainer, accounting)
    yield check_fact("every share is booked by itself", booked == _ROUNDS, f"{booked} bookings of {_ROUNDS} rounds")
    blanks = [each.pop(_BLANKS) for each in rounds]
    yield check_noise_size("a share, blank values", [np.stack(blanks)], std, known_mean=True)
    yield from check_tails("a share", np.concatenate(blanks) / std)
    yield _check_far_tail(np.concatenate(blanks) / std)
    yield check_independence("of two shares", *blanks[:2])
    yield replace(check_single_use([each[: 1 << 16] for each in blanks]), name="no share of the noise is used twice")
    for name in rounds[0]:
        yield check_noise_size(f"a share, {name}", [np.stack([each[name] for each in rounds])], std)


def _check_far_tail(values: np.ndarray) -> AuditCheck:
    beyond, size = int((np.abs(values) > _TAIL).sum()), len(values)
    least, most = (2 * float(norm.sf(_TAIL + sign * _GRID / 2)) for sign in (1, -1))
    p_value = 2 * min(binom.cdf(beyond, size, least), binom.sf(beyond - 1, size, most))
    detail = f"{beyond} of {size} values beyond {_TAIL:g} deviations"
    return AuditCheck("a share's noise is never cut off", min(1.0, float(p_value)), detail)


def _check_clipped_sum(bench: AuditBench) -> Iterator[AuditCheck]:
    """Check, under little noise, that a share is added to the sum of the clipped gradients of the patients drawn."""
    trainer = _make_trainer(bench, sample_rate=1.0)
    task, towers = _make_task(bench, bench.select_cohort(COHORT)), sorted(bench.task.model.modalities)
    std = _compute_share_std(bench, trainer, task)
    rounds, _ = _take_rounds(bench, trainer, std, "audit-shared-sum", _ROUNDS, 1)
    gradients = [bench.compute_gradient(unit) for unit in bench.list_units(task.rows)]
    clipped = [clip_gradient(each, trainer.clipping, trainer.max_grad_norm, towers) for each in gradients]
    found = np.concatenate([np.mean([each[name] for each in rounds], axis=0) for name in clipped[0]])
    planned = np.concatenate([-sum(each[name] for each in clipped) for name in clipped[0]])
    scale = sum(math.sqrt(sum(float(part @ part) for part in each.values())) for each in clipped)
    error = std / math.sqrt(_ROUNDS)
    yield check_contribution("shares are added to the clipped sum", found, planned, error, scale)
    sampled = _make_trainer(bench, sample_rate=_SAMPLE_RATE)
    drawn: list[int] = []
    std = _compute_share_std(bench, sampled, task)
    _take_rounds(bench, sampled, std, "audit-shared-rate", _SAMPLED_ROUNDS, 1, drawn)
    for each in check_sampling_law(drawn, bench.count_units(task.rows), _SAMPLE_RATE):
        yield replace(each, name=f"{each.name}, where the noise is shared")


def check_draws() -> Iterator[AuditCheck]:
    """Check the order of clamp, noise and rounding in a share, by values that each wrong order changes."""
    step, size = compute_grid_step(1.0), _BLANK_VALUES
    share = NoiseShare(1.0, step, 2 * step, HONEST)
    values = {"off": torch.full((size,), _OFFSET * step), "far": torch.full((size,), 1e3)}
    drawn = noise_share.draw_shares(values, dict.fromkeys(values, share))
    for name, mean in (("off", _OFFSET * step), ("far", 2 * step)):
        noise = drawn[name] * step - mean
        off = abs(float(noise.mean())) * math.sqrt(size)
        text = "noise is added before the rounding" if name == "off" else "a sum is clamped before the noise"
        yield AuditCheck(text, 2 * float(norm.sf(off)), f"off by {off:.1f} deviations")
        yield check_noise_size(f"a share, beside a clamp ({name})", [noise[None]], 1.0, known_mean=True)


def _check_tables(bench: AuditBench) -> Iterator[AuditCheck]:
    """Check the shares in tables of zeros, that each release draws anew, and that the size of the noise is told."""
    trainer = _share_noise(copy.copy(bench.trainer))
    trainer.budget = replace(trainer.budget, epsilon=math.inf, lifetime_epsilon=math.inf, max_failures=None)
    trainer.budget = replace(trainer.budget, local_epsilon=math.inf, lifetime_local_epsilon=math.inf)
    place = bench.accounting.folder / "audit-shared-scores"
    accounting = replace(bench.accounting, run="audit", folder=place, purpose="evaluate", shares=HONEST)
    event = trainer.make_plan(bench.own_task, accounting).score_release_event
    if event is None:
        return
    std = event.noise_multiplier * math.sqrt(_HISTOGRAM[0] / HONEST)
    names = [f"{split}.{side}" for split in ("validation", "test") for side in ("positives", "negatives")]
    share = NoiseShare(std, compute_grid_step(std), 1e9, HONEST, math.prod(_HISTOGRAM))
    task = replace(bench.own_task, shares=dict.fromkeys((*names, _BLANKS), share))
    tables, noises = {name: np.zeros(_HISTOGRAM, np.int64) for name in names}, []
    for number in (1, 2):
        left = trainer.release_statistics(tables, task, accounting)
        noises += [left[name].ravel() * share.step for name in (*names, _BLANKS)]
        trainer.record_release(accounting, f"words {number}")
    booked, told = count_bookings(trainer, accounting), {f"{split}.{NOISE}" for split in ("validation", "test")}
    yield check_fact("every draw of shared tables is booked", booked == len((1, 2)), f"{booked} bookings of two draws")
    yield check_fact("the size of the noise is told", told <= set(left), f"{sorted(left)}")
    yield check_noise_size("a share, tables", [np.concatenate(noises)[None]], std, known_mean=True)
    yield replace(check_single_use(noises), name="no share of the noise of tables is used twice")


def _take_rounds(
    bench: AuditBench,
    trainer: DPSGDTrainer,
    std: float,
    run: str,
    rounds: int,
    blanks: int,
    drawn: list[int] | None = None,
) -> tuple[list[dict[str, np.ndarray]], AccountingContext]:
    """Return what each of several rounds adds to its sums, as real numbers; count the patients drawn in each."""
    share = NoiseShare(std, compute_grid_step(std), 1e9, HONEST)
    task, found = _make_task(bench, bench.select_cohort(COHORT)), []
    names = [name for name, p in task.model.named_parameters() if p.requires_grad]
    shares = {**dict.fromkeys(names, share), _BLANKS: replace(share, size=blanks)}
    folder = bench.accounting.folder / run
    accounting = replace(bench.accounting, run=run, folder=folder, rounds=_SAMPLED_ROUNDS, shares=HONEST)
    for number in range(1, rounds + 1):
        accounting, source = replace(accounting, round=number), task.examples
        examples = RecordingExamples(source.sources, source.labels, source.patient, source.study)
        report = trainer.fit(replace(task, examples=examples, shares=shares), accounting)
        trainer.record_release(accounting, f"words {number}")
        if drawn is not None:
            drawn.append(bench.count_units(row for batch in examples.loads for row in batch))
        words: Mapping[str, np.ndarray] = report.direction or {}
        found.append({name: to_vector(torch.from_numpy(words[name] * share.step)) for name in (*names, _BLANKS)})
    return found, accounting


def _compute_share_std(bench: AuditBench, trainer: DPSGDTrainer, task: TrainingTask) -> float:
    accounting = replace(bench.accounting, rounds=_SAMPLED_ROUNDS, shares=HONEST)
    return trainer.make_plan(task, accounting).noise_multiplier * trainer.max_grad_norm / math.sqrt(HONEST)


def _make_trainer(bench: AuditBench, **changes: object) -> DPSGDTrainer:
    return _share_noise(bench.make_trainer(**changes))


def _share_noise(trainer: DPSGDTrainer) -> DPSGDTrainer:
    trainer.shares_noise = True
    return trainer


def _make_task(bench: AuditBench, rows: list[int]) -> TrainingTask:
    """Return a task of one step that sends its gradient."""
    task = bench.make_task(rows, 1, rests=True)
    return replace(task, training=replace(task.training, sends=Sends.gradient))
