"""Training that protects each patient (or each study): DP-SGD with one privacy plan for the whole run.

See docs/privacy.md for the guarantee. Two things leave the site: the update of weights that were noised at every step,
and once, after the last round, noised score histograms. Losses, norms, counts and scores of single rounds stay.
"""

from __future__ import annotations

import copy
import itertools
import logging
import math
import secrets
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from fedhealth.data.examples import Examples
from fedhealth.errors import ModelError, PrivacyError
from fedhealth.models.modality_keys import METHOD
from fedhealth.privacy.accounting.plan import PrivacyPlan, bucket_count
from fedhealth.privacy.auditing.audit_reasons import FAILED_AUDIT, FAILED_SELF_CHECK
from fedhealth.privacy.context import AccountingContext
from fedhealth.privacy.engines.base import get_trainable_parameters
from fedhealth.privacy.engines.dp_optimizer import AfterNoise, NoisyOptimizer
from fedhealth.privacy.engines.self_check import run_self_check
from fedhealth.privacy.engines.step import sum_clipped_gradients, take_private_step
from fedhealth.privacy.mechanisms.histogram_release import (
    DESCRIPTIVE_PREFIX,
    count_moved,
    select_studies_per_patient,
)
from fedhealth.privacy.mechanisms.noise_share import draw_shares
from fedhealth.privacy.mechanisms.poisson_sampler import PatientSampler
from fedhealth.privacy.statistics_release import release_descriptive_counts, release_score_histograms
from fedhealth.secagg.primitives.noise_grid import is_blank
from fedhealth.training.check_batch import make_check_batch
from fedhealth.training.dpsgd_plans import DPSGDPlans
from fedhealth.training.fit_audit import list_audit_failures
from fedhealth.training.noise_shares import get_step_shares
from fedhealth.training.optimizers import build_optimizer, collect_gradients
from fedhealth.training.physical_batches import choose_physical_batch_size
from fedhealth.training.precision import checkpoint_activations, use_channels_last
from fedhealth.training.private_batches import build_loss_fn, list_checked_losses, load_physical_batches
from fedhealth.training.seeding import seed_generators
from fedhealth.training.step_checkpoint import StepCheckpoint
from fedhealth.training.trainer import FitReport, GradientHook, Statistics, TrainingTask, get_checkpoint_folder
from fedhealth.types import State

log = logging.getLogger("fedhealth.site")


class DPSGDTrainer(DPSGDPlans):
    """DP-SGD over patients or studies; `DPSGDPlans` has its settings."""

    is_private = True
    is_auditable = True

    # --- before training: the plan, and whether the site can join ---

    def check_can_join(self, task: TrainingTask, accounting: AccountingContext) -> list[str]:
        """Return why this site cannot take part; the reasons contain no number that depends on a patient."""
        try:
            plan = self.make_plan(task, accounting)
            self.make_engine(task.model.train(), build_loss_fn(task.kind, task.training), plan.clipping)
            self.budget.check_run(self.plan_task(task, accounting), accounting)
        except PrivacyError as fault:
            log.warning("declined: %s", fault)
            return [fault.problem]
        try:
            # on synthetic rows: the reason leaves the site
            batch, owners = make_check_batch(task.model, task.examples, task.kind, plan.max_records_per_unit)
            checked = list_checked_losses(task.kind, task.training, batch["targets"].device)
            with use_channels_last(task.model, task.training), checkpoint_activations(task.model, task.training):
                for loss_fn, tolerance in checked:
                    run_self_check(self.make_engine, task.model, loss_fn, plan.clipping, batch, owners, tolerance)
        except PrivacyError as fault:
            log.warning("declined: %s", fault)
            return [FAILED_SELF_CHECK]
        audited = copy.copy(self)  # a run that only describes has no rounds whose noise is shared
        audited.shares_noise = self.shares_noise and accounting.purpose != "describe"
        if failures := list_audit_failures(audited, task, replace(accounting, purpose="train")):
            log.warning("declined: the audit of private training fails: %s", "; ".join(failures))
            return [FAILED_AUDIT]
        return []

    def count_round_steps(self, task: TrainingTask, accounting: AccountingContext) -> int:
        """Return the number of optimizer steps of one round, which the plan fixes."""
        return self.make_plan(task, accounting).steps

    def compute_least_noise(self, task: TrainingTask, accounting: AccountingContext) -> tuple[float, float]:
        """Return the noise multipliers of the model's and the statistics' sums if the noise is shared; else zeros."""
        if not self.shares_noise:
            return 0.0, 0.0
        plan = self.plan_task(task, accounting)
        if accounting.purpose == "describe":
            return 0.0, plan.noise_multiplier
        scores = plan.score_release_event
        return plan.noise_multiplier, scores.noise_multiplier if scores else 0.0

    # --- one round ---

    def fit(self, task: TrainingTask, accounting: AccountingContext | None = None) -> FitReport:
        """Train for one round, which is booked before the first step; the report has no loss, because it has no noise.

        Raises:
            PrivacyError: the budget is exhausted, or the ledger is damaged or in use.
            ModelError: the weights are no longer finite. They were noised at every step, so this reveals no more than
                they do; nothing else that is raised here depends on a patient's values.

        """
        if accounting is None:
            raise PrivacyError("private training needs a ledger", "Pass an AccountingContext: fit(task, accounting).")
        plan, model = self.make_plan(task, accounting), task.model.train()
        if self.shares_noise:
            return self._fit_with_shares(task, accounting, plan)
        parameters = get_trainable_parameters(model)
        plain = build_optimizer(task.training, parameters, task.rate_factor)
        folder = get_checkpoint_folder(task, accounting)
        engine = self.make_engine(model, build_loss_fn(task.kind, task.training), plan.clipping)
        sampler = self._build_sampler(task, plan)
        device = next(model.parameters()).device
        devices = [device] if device.type == "cuda" else []
        with (
            use_channels_last(model, task.training),
            checkpoint_activations(model, task.training),
            self.budget.open_ledger(accounting.folder) as ledger,
            torch.random.fork_rng(devices=devices),
        ):
            booked = self.budget.book(ledger, plan, accounting, plan.round_event)
            key = (plan, accounting.run, accounting.round, booked.number, task.examples.digest)
            checkpoint = StepCheckpoint(folder, model, plain, key, task.start)
            _seed_dropout(device)
            checkpoint.restore()
            hook = task.gradient_hook
            after_noise = _build_after_noise(hook, model, checkpoint.step) if hook else None
            optimizer = NoisyOptimizer(plain, plan, after_noise=after_noise)
            optimizer.allow_steps(booked.mechanism)
            for step, physical in itertools.islice(enumerate(sampler, 1), checkpoint.step, None):
                take_private_step(engine, optimizer, load_physical_batches(task.examples, physical, device))
                checkpoint.record_step(step, 0.0)
        checkpoint.delete()
        if not all(bool(p.isfinite().all()) for p in parameters.values()):
            raise ModelError("The private training diverged.", "Lower the learning rate.")
        return FitReport(plan.steps, len(task.rows), math.nan, collect_gradients(task.training, parameters))

    def _fit_with_shares(self, task: TrainingTask, accounting: AccountingContext, plan: PrivacyPlan) -> FitReport:
        """Take one step's clipped sum, with this site's share of the noise of all sites' sums."""
        shares, sampler = get_step_shares(task, plan), self._build_sampler(task, plan)
        model = task.model
        engine = self.make_engine(model, build_loss_fn(task.kind, task.training), plan.clipping)
        device = next(model.parameters()).device
        devices = [device] if device.type == "cuda" else []
        with (
            use_channels_last(model, task.training),
            checkpoint_activations(model, task.training),
            self.budget.open_ledger(accounting.folder) as ledger,
            torch.random.fork_rng(devices=devices),
        ):
            self.budget.book(ledger, plan, accounting, plan.round_event)
            _seed_dropout(device)
            (physical,) = sampler
            batches = load_physical_batches(task.examples, physical, device)
            sums = sum_clipped_gradients(engine, get_trainable_parameters(model), batches)
        directions = {name: -total for name, total in sums.items()}
        return FitReport(1, len(task.rows), math.nan, dict(draw_shares(directions, shares)))

    def _build_sampler(self, task: TrainingTask, plan: PrivacyPlan) -> PatientSampler:
        units, copies = self.group_units(task), task.examples.copies
        size = self.max_physical_batch_size
        if size is None:
            most = copies * min(plan.max_records_per_unit, max(map(len, units), default=1))
            size = choose_physical_batch_size(self.make_engine, task, plan.clipping, most)
        return PatientSampler(
            units,
            sample_rate=plan.sample_rate,
            steps=plan.steps,
            max_records_per_patient=plan.max_records_per_unit,
            max_physical_batch_size=max(1, size // copies),
        )

    # --- what may leave the site ---

    def count_units(self, task: TrainingTask) -> int:
        """Return the number of patients or studies; every one of them counts alike in a step."""
        return len(self.group_units(task))

    def count_weighted_rows(self, patients: np.ndarray) -> int:
        """Return the number of rows, of each patient no more than training uses: the weight leaves without noise."""
        return int(np.minimum(np.unique(patients, return_counts=True)[1], self.max_records_per_patient).sum())

    def compute_aggregation_weights(self, rows: Mapping[str, int]) -> dict[str, int]:
        """Return coarse training weights: rounded down to a power of sqrt 2."""
        return {tower: bucket_count(count) if count else 0 for tower, count in rows.items()}

    def select_scored_rows(self, examples: Examples, rows: np.ndarray) -> np.ndarray:
        """Return the rows of a held-out split that count: one study of each patient, or as many as allowed."""
        if self.unit == "record":
            return self.cap_studies(examples, rows)
        return select_studies_per_patient(examples.study, examples.patient, rows, 1)

    def protect_update(self, update: State, task: TrainingTask, accounting: AccountingContext) -> State:
        """Return the update; what is not made of noised gradients (running statistics) is zero."""
        names = get_trainable_parameters(task.model)
        return {
            n: v if n in names or n.startswith(METHOD) or is_blank(n) else np.zeros_like(v) for n, v in update.items()
        }

    def release_statistics(
        self, statistics: Statistics, task: TrainingTask, accounting: AccountingContext
    ) -> Statistics:
        """Return the final model's score histograms, noised and booked once per run; nothing of single rounds."""
        if any(name.startswith(DESCRIPTIVE_PREFIX) for name in statistics):
            plan, moved = self.make_descriptive_plan(task, accounting), count_moved(self.unit)
            return release_descriptive_counts(self.budget, plan, statistics, moved, accounting, task.shares)
        if not self.score_release_share or not any(name.startswith("test.") for name in statistics):
            return {}
        plan, share = self.make_plan(task, accounting), self.subgroup_release_share
        return release_score_histograms(self.budget, plan, statistics, accounting, share, task.shares)


def _seed_dropout(device: torch.device) -> None:
    """Seed PyTorch from the operating system.

    A known seed would tell which mask a patient's row gets, and one patient less in a batch would change the masks of
    the others.
    """
    seed_generators(secrets.randbits(63), device)


def _build_after_noise(hook: GradientHook, model: nn.Module, done: int) -> AfterNoise:
    """Return the hook as the optimizer calls it; `done` steps were taken by an earlier process."""
    parameters, steps = get_trainable_parameters(model), itertools.count(done)
    return lambda _: hook(next(steps), parameters)
