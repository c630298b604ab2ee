"""Training that protects each patient (or each study): DP-SGD with one privacy plan for the whole run.

See docs/privacy.md for the guarantee. Two things leave the site: the update of weights that were noised at every step,
and once, after the last round, noised score histograms. Losses, norms, counts and scores of single rounds stay.
"""

from __future__ import annotations

import itertools
import logging
import math
import secrets
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from torch import nn

from fedhealth.config.schema import TrainingConfig
from fedhealth.data.examples import Examples
from fedhealth.errors import ModelError, PrivacyError
from fedhealth.models.modality_keys import METHOD
from fedhealth.privacy.accounting.budget import PrivacyBudget
from fedhealth.privacy.accounting.ledger_entry import LIFETIME_DELTA
from fedhealth.privacy.accounting.plan import DEFAULT_DELTA, PrivacyPlan, PrivacyRequest, bucket_count
from fedhealth.privacy.context import AccountingContext
from fedhealth.privacy.engines.base import get_trainable_parameters
from fedhealth.privacy.engines.book_keeping import BookKeepingEngine
from fedhealth.privacy.engines.dp_optimizer import AfterNoise, NoisyOptimizer
from fedhealth.privacy.engines.opacus_hooks import OpacusEngine
from fedhealth.privacy.engines.oracle import OracleEngine
from fedhealth.privacy.engines.self_check import EngineFactory, run_self_check
from fedhealth.privacy.engines.step import sum_clipped_gradients, take_private_step
from fedhealth.privacy.mechanisms.clipping import Clipping
from fedhealth.privacy.mechanisms.histogram_release import DESCRIPTIVE_PREFIX, select_studies_per_patient
from fedhealth.privacy.mechanisms.poisson_sampler import PatientSampler
from fedhealth.privacy.statistics_release import release_descriptive_counts, release_score_histograms
from fedhealth.training.check_batch import make_check_batch
from fedhealth.training.fit_audit import list_audit_failures
from fedhealth.training.noise_shares import check_noise_shares, check_shared_settings, draw_directions
from fedhealth.training.optimizers import build_optimizer, collect_gradients, count_steps
from fedhealth.training.private_batches import (
    build_loss_fn,
    group_rows_by_unit,
    load_physical_batches,
)
from fedhealth.training.release_records import ReleaseRecords
from fedhealth.training.step_checkpoint import StepCheckpoint
from fedhealth.training.trainer import (
    FitReport,
    GradientHook,
    Statistics,
    TrainingTask,
    Workload,
    get_checkpoint_folder,
)
from fedhealth.types import State

ENGINES: Mapping[str, EngineFactory] = {"bk": BookKeepingEngine, "opacus": OpacusEngine, "oracle": OracleEngine}

log = logging.getLogger("fedhealth.site")


class DPSGDTrainer(ReleaseRecords):
    """DP-SGD over patients or studies.

    Args:
        dataset: its name, for the ledger.
        epsilon: of the whole run, including everything that leaves the site.
        delta: of the guarantee; the same at all sites, well below 1 / patients.
        unit: `patient`, or `record` to protect each study on its own.
        clipping: `automatic`, `flat` or `tower` (a share of the bound for each modality).
        max_grad_norm: largest L2 norm of one unit's contribution to a step.
        engine: `bk`, `opacus` or `oracle`.
        sample_rate: probability with which a unit is in a step's batch; null takes training.batch_size / bucketed
            cohort.
        max_records_per_patient: studies of one patient used in a step; for unit `record`, in the whole run.
        max_physical_batch_size: rows computed at a time; changes memory, not the result.
        noise_multiplier: the least noise that the run asks for; null takes what epsilon needs.
        noise: `local` if each site adds the noise of its own sum; `shared` if the honest sites of a secure sum add it
            together: each adds less, and the promise rests on how many of them collude.
        score_release_share: share of the budget for the final model's score histograms; 0 releases none.
        subgroup_release_share: of that share, the part for scores by subgroup; 0 releases none by subgroup.
        spare_rounds: further rounds that the noise is calibrated for, so that a failed round costs no site its last.
        max_epsilon: the site's limit for one run; null for none.
        lifetime_epsilon: the site's limit for all runs on the data set; null for none.
        min_noise_multiplier: the least noise that the site accepts.
        min_cohort: the fewest patients that the site trains on.
        lifetime_delta: the delta at which the site measures all runs together.
        max_failures: the site's limit on failed private requests on the data set, of all runs; null for none.
        max_local_epsilon: the site's limit for one run with shared noise if all others collude; null for none.
        lifetime_local_epsilon: the same for all runs on the data set; null for none.

    """

    is_private = True
    is_auditable = True

    def __init__(
        self,
        dataset: str,
        epsilon: float,
        delta: float = DEFAULT_DELTA,
        unit: Literal["patient", "record"] = "patient",
        clipping: Literal["automatic", "flat", "tower"] = "automatic",
        max_grad_norm: float = 1.0,
        engine: str = "bk",
        sample_rate: float | None = None,
        max_records_per_patient: int = 4,
        max_physical_batch_size: int = 256,
        noise_multiplier: float | None = None,
        score_release_share: float = 0.1,
        spare_rounds: int = 1,
        max_epsilon: float | None = None,
        lifetime_epsilon: float | None = None,
        min_noise_multiplier: float = 0.0,
        min_cohort: int = 10,
        lifetime_delta: float = LIFETIME_DELTA,
        max_failures: int | None = None,
        noise: Literal["local", "shared"] = "local",
        max_local_epsilon: float | None = None,
        lifetime_local_epsilon: float | None = None,
        subgroup_release_share: float = 0.0,
    ) -> None:
        if unit not in ("patient", "record"):
            raise PrivacyError(f"privacy.unit: unknown unit {unit!r}", "Use patient, record or privacy=client.")
        if noise not in ("local", "shared"):
            raise PrivacyError(f"privacy.noise: unknown noise {noise!r}", "Use local or shared.")
        if engine not in ENGINES:
            raise PrivacyError(f"privacy.engine: unknown engine {engine!r}", f"Use one of {', '.join(ENGINES)}.")
        if sample_rate is not None and not 0 < sample_rate <= 1:
            raise PrivacyError(
                f"privacy.sample_rate: {sample_rate} is not in (0, 1]", "Leave it null, or give a probability."
            )
        if not 0 <= subgroup_release_share < 1:
            raise PrivacyError(
                f"privacy.subgroup_release_share: {subgroup_release_share} is not in [0, 1)", "Use 0, or about 0.5."
            )
        run_epsilon, lifetime = min(epsilon, max_epsilon or math.inf), lifetime_epsilon or math.inf
        self.budget = PrivacyBudget(
            dataset,
            run_epsilon,
            lifetime,
            min_noise_multiplier,
            max(2, min_cohort),
            lifetime_delta,
            max_failures,
            max_local_epsilon or math.inf,
            lifetime_local_epsilon or math.inf,
        )
        self.shares_noise = noise == "shared"
        self.epsilon, self.delta, self.unit = epsilon, delta, unit
        self.clipping, self.max_grad_norm = clipping, max_grad_norm
        self.sample_rate, self.noise_multiplier = sample_rate, noise_multiplier
        self.max_records_per_patient = max_records_per_patient
        self.max_physical_batch_size = max_physical_batch_size
        self.score_release_share, self.spare_rounds = score_release_share, spare_rounds
        self.subgroup_release_share = subgroup_release_share
        self.make_engine, self.step = ENGINES[engine], take_private_step

    # --- before training: the plan, and whether the site can join ---

    def check_can_join(self, task: TrainingTask, accounting: AccountingContext) -> list[str]:
        """Return why this site cannot take part; the reasons contain no number that depends on a patient."""
        try:
            plan = self.make_plan(task, accounting)
            self.make_engine(task.model.train(), build_loss_fn(task.kind, task.training), plan.clipping)
            is_descriptive = accounting.purpose == "describe"
            self.budget.check_run(self._make_descriptive_plan(task) if is_descriptive else plan, accounting)
        except PrivacyError as fault:
            log.warning("declined: %s", fault)
            return [fault.problem]
        try:
            # on synthetic rows: the reason leaves the site
            batch, owners = make_check_batch(task.model, task.examples, task.kind, plan.max_records_per_unit)
            run_self_check(
                self.make_engine, task.model, build_loss_fn(task.kind, task.training), plan.clipping, batch, owners
            )
        except PrivacyError as fault:
            log.warning("declined: %s", fault)
            return ["the gradient engine fails its self-check on this model (the site's log says where)"]
        if failures := list_audit_failures(self, task, replace(accounting, purpose="train")):
            log.warning("declined: the audit of private training fails: %s", "; ".join(failures))
            return ["private training fails its audit on synthetic patients (the site's log says where)"]
        return []

    def count_round_steps(self, task: TrainingTask, accounting: AccountingContext) -> int:
        """Return the number of optimizer steps of one round, which the plan fixes."""
        return self.make_plan(task, accounting).steps

    def compute_least_noise(self, task: TrainingTask, accounting: AccountingContext) -> float:
        """Return the noise multiplier of the plan if the noise is shared; else 0."""
        return self.make_plan(task, accounting).noise_multiplier if self.shares_noise else 0.0

    def plan_run(
        self, work: Workload, training: TrainingConfig, rounds: int, shares: int = 1
    ) -> tuple[PrivacyBudget, PrivacyPlan]:
        """Return what the whole run would spend.

        Raises:
            PrivacyError: no plan meets the run's target epsilon and the site's policy.

        """
        k = self.max_records_per_patient
        patients = len(work.studies)
        units = patients if self.unit == "patient" else sum(min(count, k) for count in work.studies)
        return self.budget, self._make_plan(units, patients, work.modalities, training, rounds, shares)

    def make_plan(self, task: TrainingTask, accounting: AccountingContext) -> PrivacyPlan:
        """Return the whole run's plan at this site.

        Raises:
            PrivacyError: no plan meets the run's target epsilon and the site's policy.

        """
        units, patients = len(self._group_units(task)), len(np.unique(task.examples.patient[task.rows]))
        rounds, shares = accounting.rounds, accounting.shares
        return self._make_plan(units, patients, task.model.modalities, task.training, rounds, shares)

    def _make_plan(
        self, units: int, patients: int, modalities: frozenset[str], training: TrainingConfig, rounds: int, shares: int
    ) -> PrivacyPlan:
        towers = tuple(f"towers.{name}" for name in sorted(modalities)) if self.clipping == "tower" else ()
        if patients < self.budget.min_cohort:
            units = 1  # below the minimum, the exact number stays secret
        size = bucket_count(units)
        if self.shares_noise:
            check_shared_settings(training, self.sample_rate, shares)
        request = PrivacyRequest(
            unit=self.unit,
            epsilon=self.epsilon,
            sample_rate=self.sample_rate or min(1.0, training.batch_size / size),
            steps=count_steps(training, size),
            rounds=rounds,
            clipping=Clipping(self.max_grad_norm, self.clipping, towers),
            noise_multiplier=self.noise_multiplier,
            delta=self.delta,
            max_records_per_patient=self.max_records_per_patient,
            score_release_share=self.score_release_share,
            spare_rounds=self.spare_rounds,
            shares=shares if self.shares_noise else 1,
        )
        return self.budget.make_plan(request, units)

    def _make_descriptive_plan(self, task: TrainingTask) -> PrivacyPlan:
        """Return the plan of a run that releases counts of patients and trains nothing."""
        units = len(np.unique(task.examples.patient))
        request = PrivacyRequest(
            unit=self.unit,
            epsilon=self.epsilon,
            sample_rate=1.0,
            steps=1,
            rounds=1,
            clipping=Clipping(1.0),
            noise_multiplier=self.noise_multiplier,
            delta=self.delta,
            max_records_per_patient=self.max_records_per_patient,
        )
        return self.budget.make_plan(request, units)

    def _group_units(self, task: TrainingTask) -> list[list[int]]:
        """Return the training rows of each unit."""
        examples = task.examples
        if self.unit == "patient":
            return group_rows_by_unit(examples.patient, task.rows)
        return group_rows_by_unit(examples.study, self._cap_studies(examples, task.rows))

    def _cap_studies(self, examples: Examples, rows: np.ndarray) -> np.ndarray:
        return select_studies_per_patient(examples.study, examples.patient, rows, self.max_records_per_patient)

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
        with self.budget.open_ledger(accounting.folder) as ledger, torch.random.fork_rng(devices=devices):
            booked = self.budget.book(ledger, plan, accounting, plan.round_event)
            key = (plan, accounting.run, accounting.round, booked.number, task.examples.digest)
            checkpoint = StepCheckpoint(folder, model, plain, key)
            # For dropout only. A known seed would tell which mask a patient's row gets, and one patient less in a
            # batch would change the masks of the others.
            torch.manual_seed(secrets.randbits(63))
            checkpoint.restore()
            hook = task.gradient_hook
            after_noise = _build_after_noise(hook, model, checkpoint.step) if hook else None
            optimizer = NoisyOptimizer(plain, plan, after_noise=after_noise)
            optimizer.allow_steps(booked.mechanism)
            for step, physical in itertools.islice(enumerate(sampler, 1), checkpoint.step, None):
                self.step(engine, optimizer, load_physical_batches(task.examples, physical, device))
                checkpoint.record_step(step, 0.0)
        checkpoint.delete()
        if not all(bool(p.isfinite().all()) for p in parameters.values()):
            raise ModelError("The private training diverged.", "Lower the learning rate.")
        return FitReport(plan.steps, len(task.rows), math.nan, collect_gradients(task.training, parameters))

    def _fit_with_shares(self, task: TrainingTask, accounting: AccountingContext, plan: PrivacyPlan) -> FitReport:
        """Take one step's clipped sum, with this site's share of the noise of all sites' sums."""
        shares = check_noise_shares(task, plan)
        model = task.model
        engine = self.make_engine(model, build_loss_fn(task.kind, task.training), plan.clipping)
        device = next(model.parameters()).device
        devices = [device] if device.type == "cuda" else []
        with self.budget.open_ledger(accounting.folder) as ledger, torch.random.fork_rng(devices=devices):
            self.budget.book(ledger, plan, accounting, plan.round_event)
            torch.manual_seed(secrets.randbits(63))  # for dropout; see `fit`
            (physical,) = self._build_sampler(task, plan)
            batches = load_physical_batches(task.examples, physical, device)
            sums = sum_clipped_gradients(engine, get_trainable_parameters(model), batches)
        return FitReport(1, len(task.rows), math.nan, draw_directions(sums, shares))

    def _build_sampler(self, task: TrainingTask, plan: PrivacyPlan) -> PatientSampler:
        return PatientSampler(
            self._group_units(task),
            sample_rate=plan.sample_rate,
            steps=plan.steps,
            max_records_per_patient=plan.max_records_per_unit,
            max_physical_batch_size=max(1, self.max_physical_batch_size // task.examples.copies),
        )

    # --- what may leave the site ---

    def count_units(self, task: TrainingTask) -> int:
        """Return the number of patients or studies; every one of them counts alike in a step."""
        return len(self._group_units(task))

    def compute_aggregation_weights(self, rows: Mapping[str, int]) -> dict[str, int]:
        """Return coarse training weights: rounded down to a power of sqrt 2."""
        return {tower: bucket_count(count) if count else 0 for tower, count in rows.items()}

    def select_scored_rows(self, examples: Examples, rows: np.ndarray) -> np.ndarray:
        """Return the rows of a held-out split that count: one study of each patient, or as many as allowed."""
        if self.unit == "record":
            return self._cap_studies(examples, rows)
        return select_studies_per_patient(examples.study, examples.patient, rows, 1)

    def protect_update(self, update: State, task: TrainingTask, accounting: AccountingContext) -> State:
        """Return the update; what is not made of noised gradients (running statistics) is zero."""
        names = get_trainable_parameters(task.model)
        return {n: v if n in names or n.startswith(METHOD) else np.zeros_like(v) for n, v in update.items()}

    def release_statistics(
        self, statistics: Statistics, task: TrainingTask, accounting: AccountingContext
    ) -> Statistics:
        """Return the final model's score histograms, noised and booked once per run; nothing of single rounds."""
        if any(name.startswith(DESCRIPTIVE_PREFIX) for name in statistics):
            plan = self._make_descriptive_plan(task)
            # Without one of its studies, a patient may count by another: one count less in a bin, one more in another.
            moved = 1 if self.unit == "patient" else 2
            return release_descriptive_counts(self.budget, plan, statistics, moved, accounting)
        if not self.score_release_share or not any(name.startswith("test.") for name in statistics):
            return {}
        plan, share = self.make_plan(task, accounting), self.subgroup_release_share
        return release_score_histograms(self.budget, plan, statistics, accounting, share)


def _build_after_noise(hook: GradientHook, model: nn.Module, done: int) -> AfterNoise:
    """Return the hook as the optimizer calls it; `done` steps were taken by an earlier process."""
    parameters, steps = get_trainable_parameters(model), itertools.count(done)
    return lambda _: hook(next(steps), parameters)
