"""Audit private training end to end: through the trainer's own `fit`, its releases and a ledger of its own.

What was released (`fit_recording`) is compared with numbers that the audit computes itself: rate and steps from the
settings, epsilon by Opacus's PRV, one patient's clipped gradient by autograd. The sensitivity is the mean difference
between training with and without a patient, under little noise; the run's own noise is measured apart.

All of it is un-noised knowledge about the rows it is given: it stays at the site, and books in a scratch ledger.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedhealth.data.examples import Examples
from fedhealth.errors import PrivacyError
from fedhealth.privacy.accounting.accountant import PrivacyEvent
from fedhealth.privacy.accounting.plan import PrivacyPlan
from fedhealth.privacy.auditing.independent_numbers import check_plan, clip_gradient, compute_sample_rate
from fedhealth.privacy.auditing.noise_checks import check_noise_size, check_uniqueness
from fedhealth.privacy.auditing.release_checks import (
    AuditCheck,
    AuditFinding,
    check_contribution,
    check_equal_rates,
    check_fact,
    check_fresh_draws,
    check_sampling_law,
    judge_measurements,
)
from fedhealth.privacy.context import AccountingContext
from fedhealth.training.audit_bench import BATCH, COHORT, CROWD, AuditBench
from fedhealth.training.audit_features import list_large_encoders
from fedhealth.training.audit_gate import list_failures_once
from fedhealth.training.audit_scratch import open_scratch_folder
from fedhealth.training.check_batch import make_check_examples
from fedhealth.training.clipping_audit import check_clipped_sum, check_impossible_values
from fedhealth.training.fit_recording import FitRecording
from fedhealth.training.noise_audit import check_empty_batches, hold_random_state
from fedhealth.training.release_audit import (
    check_bookings,
    check_budget_end,
    check_scored_rows,
    check_scores,
    check_update_names,
    check_weights,
)
from fedhealth.training.share_audit import check_draws, check_shares
from fedhealth.training.trainer import TrainingTask

if TYPE_CHECKING:
    from fedhealth.training.dpsgd_trainer import DPSGDTrainer

_LARGE_BATCH = 16  # rows
_REPEATS = 8  # steps of a fit whose noise is measured
_FEW_UNITS, _FEW_STEPS, _FEW_VALUES = 3, 4, 1 << 14  # of a fit that trains large encoders; values of each tensor


@dataclass(frozen=True)
class AuditDepth:
    """How much is measured: steps of the sampler, and steps with and without the patient."""

    sampled_steps: int
    compared_steps: int


QUICK, STANDARD = AuditDepth(24, 8), AuditDepth(120, 32)


def audit_fit(
    trainer: DPSGDTrainer,
    task: TrainingTask,
    accounting: AccountingContext,
    depth: AuditDepth = QUICK,
    patients: Examples | None = None,
) -> tuple[AuditFinding, ...]:
    """Audit a trainer at one site; the task's model stays as it is.

    Args:
        trainer: as configured for the run.
        task: of the run.
        accounting: gives the number of rounds; nothing is booked there.
        depth: how much is measured.
        patients: to train on instead of the task's own.

    """
    return judge_measurements(lambda: _measure(trainer, task, accounting, depth, patients))


def _measure(
    trainer: DPSGDTrainer,
    task: TrainingTask,
    accounting: AccountingContext,
    depth: AuditDepth,
    patients: Examples | None,
) -> list[AuditCheck]:
    checks = []
    with open_scratch_folder() as scratch:
        place = replace(accounting, folder=Path(scratch), study=None)
        try:
            for check in _FitAudit(AuditBench(trainer, task, place, patients), depth).run_checks():
                checks.append(check)
            whole = AuditBench(trainer, task, place, patients, is_whole=True)
            checks += _check_large_encoders(whole) if list_large_encoders(task.model) else []
        except Exception as fault:  # whatever the code under audit raises is a finding
            shown = fault.problem if isinstance(fault, PrivacyError) else f"{type(fault).__name__}: {fault}"
            checks.append(check_fact("private training runs under the audit", False, shown))
    return checks


def list_audit_failures(trainer: DPSGDTrainer, task: TrainingTask, accounting: AccountingContext) -> list[str]:
    """Return which checks fail on synthetic patients, since the result leaves the site; once per process and plan."""

    def audit_synthetic() -> tuple[AuditFinding, ...]:
        most = trainer.max_records_per_patient if trainer.unit == "patient" else 1
        patients = make_check_examples(task.model, task.examples, task.kind, most, CROWD)
        return audit_fit(trainer, task, accounting, QUICK, patients)

    return list_failures_once(trainer, task, accounting, audit_synthetic)


class _FitAudit:
    """The checks of one audit."""

    def __init__(self, bench: AuditBench, depth: AuditDepth) -> None:
        self.bench, self.depth = bench, depth
        self.trainer, self.accounting, self.own_task = bench.trainer, bench.accounting, bench.own_task

    def run_checks(self) -> Iterator[AuditCheck]:
        """Yield every check."""
        plan = self.bench.run_trainer.make_plan(self.own_task, self.accounting)
        yield from self._check_plan(plan)
        yield from self._check_noise(plan.noise_multiplier)
        yield from check_empty_batches(self.bench, plan.noise_multiplier)
        yield from self._check_sampling()
        yield from self._check_contribution()
        yield from check_clipped_sum(self.bench)
        yield from check_impossible_values(self.bench)
        yield from check_scores(self.bench)
        yield check_scored_rows(self.bench)
        yield check_update_names(self.bench)
        yield check_weights(self.trainer)
        yield from check_budget_end(self.bench)
        yield from check_draws()
        if self.bench.run_trainer.shares_noise:
            yield from check_shares(self.bench, plan)

    def _check_plan(self, plan: PrivacyPlan) -> Iterator[AuditCheck]:
        trainer, training = self.trainer, self.own_task.training
        rate = trainer.sample_rate or compute_sample_rate(self.bench.own_units, training.batch_size)
        per_round = training.local_steps
        if per_round is None:
            size = round(training.batch_size / compute_sample_rate(self.bench.own_units, training.batch_size))
            per_round = math.ceil(max(size, 1) / training.batch_size) * (training.local_epochs or 1)
        steps = per_round * (self.accounting.rounds + trainer.spare_rounds)
        yield from check_plan(plan, trainer.budget.epsilon, trainer.delta, rate, steps)

    def _check_noise(self, noise_multiplier: float) -> Iterator[AuditCheck]:
        """Check the run's own noise in two rounds, and their bookings."""
        trainer = self.bench.make_trainer(noise_multiplier=noise_multiplier, sample_rate=1.0)
        rows, std = self.bench.select_cohort(COHORT), noise_multiplier * trainer.max_grad_norm
        fits = []
        for number in (1, 2):
            accounting = replace(self.accounting, run="audit-noise", round=number, rounds=2)
            fits.append(self.bench.record_fit(trainer, self.bench.make_task(rows, _REPEATS), accounting, 1.0, std))
            trainer.record_release(accounting, f"words {number}")
        yield from check_bookings(trainer, accounting, PrivacyEvent(noise_multiplier, 1.0, _REPEATS))
        yield self._check_batches(fits[0].loads)
        for name in fits[0].sums:
            yield check_noise_size(name, [fit.sums[name] for fit in fits], std)
        yield check_noise_size("all together", [_join_tensors(fit.sums) for fit in fits], std)
        yield from check_uniqueness([fit.sums for fit in fits])
        yield from check_movement(fits)

    def _check_sampling(self) -> Iterator[AuditCheck]:
        """Check what the loader gets, in a round and in the same round on a machine with an empty ledger."""
        trainer = self.bench.make_trainer(
            sample_rate=None, max_physical_batch_size=self.trainer.max_physical_batch_size
        )
        rows = self.bench.select_crowd(CROWD)
        owners = [self.bench.get_owner(each[0]) for each in self.bench.list_units(rows)]
        steps = self.depth.sampled_steps
        rate = compute_sample_rate(len(owners), BATCH)
        drawn: list[list[set[int]]] = []
        with hold_random_state() as restart:
            for number in (1, 2):
                restart()
                folder = self.accounting.folder / f"sampling-{number}"
                accounting = replace(self.accounting, run="audit-sampling", round=1, rounds=1, folder=folder)
                loads = self.bench.record_fit(trainer, self.bench.make_task(rows, steps), accounting, rate, 1.0).loads
                drawn.append([{self.bench.get_owner(row) for batch in step for row in batch} for step in loads])
        yield from check_sampling_law([len(each) for each in drawn[0]], len(owners), rate)
        if rate < 1:
            counts = [sum(unit in each for fit in drawn for each in fit) for unit in owners]
            yield check_equal_rates(counts, 2 * steps, rate)
        pairs = [*zip(drawn[0][::2], drawn[0][1::2], strict=False)]
        yield check_fresh_draws("in each step", pairs, len(owners), rate)
        yield check_fresh_draws("in each fit", [*zip(*drawn, strict=True)], len(owners), rate)

    def _check_batches(self, loads: list[list[list[int]]]) -> AuditCheck:
        parts: list[list[int]] = []
        for step in loads:
            owners = [{self.bench.get_owner(row) for row in batch} for batch in step]
            parts.append([sum(unit in each for each in owners) for unit in set().union(*owners)])
        whole = all(count == 1 for step in parts for count in step)
        return check_fact("a patient's rows stay in one physical batch", whole, "a patient was split")

    def _check_contribution(self) -> Iterator[AuditCheck]:
        """Check what one patient adds: the mean difference of training with and without it."""
        # A patient that is split over physical batches shows in other checks: here they may be large, and few.
        trainer = self.bench.make_trainer(sample_rate=1.0, max_physical_batch_size=_LARGE_BATCH)
        steps = self.depth.compared_steps
        rows, target = self.bench.select_cohort(COHORT), self.bench.choose_target()
        sides = []
        for number, left_out in enumerate(([], target)):
            accounting = replace(self.accounting, run=f"audit-{number}", round=1, rounds=1)
            task = self.bench.make_task([row for row in rows if row not in left_out], steps, rests=True)
            std = trainer.make_plan(task, accounting).noise_multiplier * trainer.max_grad_norm
            sides.append((self.bench.record_fit(trainer, task, accounting, 1.0, std), std))
            yield check_noise_size(f"little of it ({number})", [_join_tensors(sides[-1][0].sums)], std)
        (with_it, std), (without, other_std) = sides
        towers = sorted(self.bench.task.model.modalities)
        planned = clip_gradient(self.bench.compute_gradient(target), trainer.clipping, trainer.max_grad_norm, towers)
        found = {name: with_it.sums[name].mean(0) - without.sums[name].mean(0) for name in planned}
        error = math.hypot(std, other_std) / math.sqrt(steps)
        for name in planned:
            yield check_contribution(f"one patient's contribution: {name}", found[name], planned[name], error)
        whole = (np.concatenate([each[name] for name in planned]) for each in (found, planned))
        yield check_contribution("one patient's contribution: all together", next(whole), next(whole), error)


def check_movement(fits: Sequence[FitRecording]) -> Iterator[AuditCheck]:
    """Check that nothing but noised sums moves the model, that no loss is reported, and that bookings come first."""
    excess = max(fit.excess for fit in fits)
    yield check_fact("the model moves by the released sums only", excess < 0.05, f"{excess:.3f} deviations more")
    yield check_fact("no loss is reported", all(math.isnan(fit.loss) for fit in fits), "training reports a loss")
    first = all(fit.is_booked_first for fit in fits)
    yield check_fact("a round is booked before its first step", first, "the ledger had no open booking")


def _check_large_encoders(bench: AuditBench) -> Iterator[AuditCheck]:
    """Check the noise in every tensor of a model whose other checks left out the large encoders."""
    multiplier = bench.trainer.make_plan(bench.own_task, bench.accounting).noise_multiplier
    trainer = bench.make_trainer(noise_multiplier=multiplier, sample_rate=1.0)
    std, task = multiplier * trainer.max_grad_norm, bench.make_task(bench.select_cohort(_FEW_UNITS), _FEW_STEPS)
    accounting = replace(bench.accounting, run="audit-whole", round=1, rounds=1)
    fit = bench.record_fit(trainer, task, accounting, 1.0, std, _FEW_VALUES)
    for name, sums in fit.sums.items():
        yield check_noise_size(f"{name}, of the whole model", [sums], std)
    yield from check_movement([fit])


def _join_tensors(sums: Mapping[str, np.ndarray]) -> np.ndarray:
    return np.concatenate(list(sums.values()), axis=1)
