"""Audit private training end to end: through the trainer's own `fit`, its releases and a ledger of its own.

What was released (`fit_recording`) is compared with numbers that the audit computes itself: rate and steps from the
settings, epsilon by Opacus's PRV, one patient's clipped gradient by autograd. The sensitivity is the mean difference
between training with and without a patient, under little noise; the run's own noise is measured apart.

All of it is un-noised knowledge about the rows it is given: it stays at the site, and books in a scratch ledger.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from fedhealth.data.examples import Examples
from fedhealth.errors import PrivacyError
from fedhealth.privacy.accounting.accountant import PrivacyEvent
from fedhealth.privacy.accounting.ledger import verify_ledger
from fedhealth.privacy.accounting.ledger_folder import get_ledger_path
from fedhealth.privacy.accounting.plan import PrivacyPlan
from fedhealth.privacy.auditing.independent_numbers import (
    check_plan,
    clip_gradient,
    compute_sample_rate,
)
from fedhealth.privacy.auditing.release_checks import (
    AuditCheck,
    AuditFinding,
    check_contribution,
    check_fact,
    check_noise_size,
    check_sampling_law,
    check_uniqueness,
    judge_checks,
)
from fedhealth.privacy.context import AccountingContext
from fedhealth.privacy.mechanisms.noised_counts import decode_counts
from fedhealth.training.check_batch import make_check_examples
from fedhealth.training.fit_recording import BATCH, AuditBench
from fedhealth.training.trainer import TrainingTask

if TYPE_CHECKING:
    from fedhealth.training.dpsgd_trainer import DPSGDTrainer

_COHORT, _CROWD = 14, 40  # units: for noise and contribution, and for the sampler
_REPEATS = 8  # steps of a fit whose noise is measured
_HISTOGRAM = (2, 60)
_passed: set[str] = set()  # what this process has audited


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
    with TemporaryDirectory() as scratch:
        bench = AuditBench(trainer, task, replace(accounting, folder=Path(scratch)), patients)
        checks = []
        try:
            for check in _FitAudit(bench, depth).run_checks():
                checks.append(check)
        except PrivacyError as fault:
            checks.append(check_fact("private training runs under the audit", False, fault.problem))
        return judge_checks(checks)


def list_audit_failures(trainer: DPSGDTrainer, task: TrainingTask, accounting: AccountingContext) -> list[str]:
    """Return which checks fail on synthetic patients, since the result leaves the site; once per process and plan."""
    settings = {name: value for name, value in vars(trainer).items() if name != "budget"}
    limits = replace(trainer.budget, dataset="any")
    key = repr((type(trainer), settings, limits, str(task.model), task.training, task.kind, accounting.rounds))
    if key in _passed:
        return []
    most = trainer.max_records_per_patient if trainer.unit == "patient" else 1
    patients = make_check_examples(task.model, task.examples, task.kind, most, _CROWD)
    findings = audit_fit(trainer, task, accounting, QUICK, patients)
    failures = [f"{each.name} ({each.detail})" for each in findings if not each.passed]
    if not failures:
        _passed.add(key)
    return failures


class _FitAudit:
    """The checks of one audit."""

    def __init__(self, bench: AuditBench, depth: AuditDepth) -> None:
        self.bench, self.depth = bench, depth
        self.trainer, self.accounting, self.own_task = bench.trainer, bench.accounting, bench.own_task

    def run_checks(self) -> Iterator[AuditCheck]:
        """Yield every check."""
        plan = self.trainer.make_plan(self.own_task, self.accounting)
        yield from self._check_plan(plan)
        yield from self._check_noise(plan.noise_multiplier)
        yield from self._check_sampling()
        yield from self._check_contribution()
        yield from self._check_scores()

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
        rows, std = self.bench.select_cohort(_COHORT), noise_multiplier * trainer.max_grad_norm
        fits = []
        for number in (1, 2):
            accounting = replace(self.accounting, run="audit-noise", round=number, rounds=2)
            fits.append(self.bench.record_fit(trainer, self.bench.make_task(rows, _REPEATS), accounting, 1.0, std))
            trainer.record_release(accounting, f"words {number}")
        yield from _check_bookings(trainer, accounting, PrivacyEvent(noise_multiplier, 1.0, _REPEATS))
        for name in fits[0].sums:
            yield check_noise_size(name, [fit.sums[name] for fit in fits], std)
        yield from check_uniqueness([fit.sums for fit in fits])
        excess = max(fit.excess for fit in fits)
        yield check_fact("the model moves by the released sums only", excess < 0.05, f"{excess:.3f} deviations more")
        yield check_fact("no loss is reported", all(math.isnan(fit.loss) for fit in fits), "training reports a loss")

    def _check_sampling(self) -> Iterator[AuditCheck]:
        """Check what the loader gets."""
        trainer, rows = self.bench.make_trainer(sample_rate=None), self.bench.select_crowd(_CROWD)
        units = self.bench.count_units(rows)
        rate = compute_sample_rate(units, BATCH)
        accounting = replace(self.accounting, run="audit-sampling", round=1, rounds=1)
        fit = self.bench.record_fit(
            trainer, self.bench.make_task(rows, self.depth.sampled_steps), accounting, rate, 1.0
        )
        drawn = [{self.bench.get_owner(row) for batch in step for row in batch} for step in fit.loads]
        yield from check_sampling_law([len(each) for each in drawn], units, rate)
        yield from self._check_batches(fit.loads)

    def _check_batches(self, loads: list[list[list[int]]]) -> Iterator[AuditCheck]:
        parts: list[list[int]] = []
        for step in loads:
            owners = [{self.bench.get_owner(row) for row in batch} for batch in step]
            parts.append([sum(unit in each for each in owners) for unit in set().union(*owners)])
        whole = all(count == 1 for step in parts for count in step)
        yield check_fact("a patient's rows stay in one physical batch", whole, "a patient was split")

    def _check_contribution(self) -> Iterator[AuditCheck]:
        """Check what one patient adds: the mean difference of training with and without it."""
        steps, trainer = self.depth.compared_steps, self.bench.make_trainer(sample_rate=1.0)
        rows, target = self.bench.select_cohort(_COHORT), self.bench.choose_target()
        sides = []
        for number, chosen in enumerate((rows, [row for row in rows if row not in target])):
            accounting = replace(self.accounting, run=f"audit-{number}", round=1, rounds=1)
            task = self.bench.make_task(chosen, steps, rests=True)
            std = trainer.make_plan(task, accounting).noise_multiplier * trainer.max_grad_norm
            sides.append((self.bench.record_fit(trainer, task, accounting, 1.0, std), std))
            yield check_noise_size(f"little of it ({number})", [_join_tensors(sides[-1][0].sums)], std)
        (with_it, std), (without, other_std) = sides
        gradient = self.bench.compute_gradient(target)
        planned = clip_gradient(
            gradient, trainer.clipping, trainer.max_grad_norm, sorted(self.bench.task.model.modalities)
        )
        found = {name: with_it.sums[name].mean(0) - without.sums[name].mean(0) for name in planned}
        error = math.hypot(std, other_std) / math.sqrt(steps)
        for name in planned:
            yield check_contribution(name, found[name], planned[name], error)
        whole = (np.concatenate([each[name] for name in planned]) for each in (found, planned))
        yield check_contribution("all together", next(whole), next(whole), error)

    def _check_scores(self) -> Iterator[AuditCheck]:
        """Check the noise of the final scores, and that rounds release no statistics."""
        trainer = copy.copy(self.trainer)
        trainer.budget = replace(trainer.budget, lifetime_epsilon=math.inf, max_failures=None)
        counts = np.zeros(_HISTOGRAM, np.int64)
        single = {"train.loss": np.ones(1, np.int64), "train.examples": np.ones(1, np.int64)}
        accounting = replace(self.accounting, purpose="evaluate")
        left = trainer.release_statistics(single | {"validation.positives": counts}, self.own_task, accounting)
        yield check_fact("statistics of single rounds stay", not left, f"{sorted(left)} left")
        event = trainer.make_plan(self.own_task, accounting).score_release_event
        if event is None:
            return
        held_out = {
            f"{split}.{side}": counts for split in ("validation", "test") for side in ("positives", "negatives")
        }
        runs = []
        for number in (1, 2):
            place = replace(accounting, run=f"audit-scores-{number}")
            released = trainer.release_statistics(held_out, self.own_task, place)
            runs.append(np.concatenate([decode_counts(released[name]).ravel() for name in held_out]))
        std = event.noise_multiplier * math.sqrt(_HISTOGRAM[0])
        yield check_noise_size("scores", [np.stack(runs)], std)


def _check_bookings(trainer: DPSGDTrainer, accounting: AccountingContext, event: PrivacyEvent) -> Iterator[AuditCheck]:
    """Check that two rounds were booked and released one to one, and that nothing else can be released."""
    entries = verify_ledger(get_ledger_path(accounting.folder, trainer.budget.dataset))
    booked = [entry for entry in entries if entry.kind == "book" and entry.run == accounting.run]
    paid = [entry.booking for entry in entries if entry.kind == "release" and entry.run == accounting.run]
    right = [entry.event for entry in booked] == [event, event] and paid == [entry.number for entry in booked]
    yield check_fact("every round is booked and released once", right, f"{len(booked)} bookings, {len(paid)} releases")
    try:
        trainer.record_release(accounting, "words without a booking")
    except PrivacyError:
        refused = True
    else:
        refused = False
    yield check_fact("a release without a booking is refused", refused, "it was recorded")


def _join_tensors(sums: Mapping[str, np.ndarray]) -> np.ndarray:
    return np.concatenate(list(sums.values()), axis=1)
