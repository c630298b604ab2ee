"""Client-level differential privacy: the site's update is clipped and noised before it leaves.

Noise that is drawn jointly inside secure aggregation could be smaller. It would replace `protect_update`; the booked
event would stay the same.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import numpy as np
import torch

from fedhealth.config.schema import TrainingConfig
from fedhealth.data.examples import Examples
from fedhealth.errors import PrivacyError
from fedhealth.privacy.accounting.booking import find_open_booking
from fedhealth.privacy.accounting.budget import PrivacyBudget
from fedhealth.privacy.accounting.ledger_entry import LIFETIME_DELTA
from fedhealth.privacy.accounting.plan import DEFAULT_DELTA, PrivacyPlan, PrivacyRequest
from fedhealth.privacy.auditing.audit_reasons import FAILED_AUDIT
from fedhealth.privacy.context import AccountingContext
from fedhealth.privacy.engines.client_level import clip_and_noise_update
from fedhealth.privacy.mechanisms.clipping import Clipping
from fedhealth.privacy.mechanisms.gaussian_noise import NoiseSource
from fedhealth.training.optimizers import count_steps
from fedhealth.training.release_records import ReleaseRecords
from fedhealth.training.trainer import FitReport, Statistics, TrainingTask, Workload, fit_without_noise
from fedhealth.training.update_audit import list_audit_failures
from fedhealth.types import State

log = logging.getLogger("fedhealth.site")


class ClientDPTrainer(ReleaseRecords):
    """Ordinary training with a noised update.

    Args:
        dataset: its name, for the ledger.
        epsilon: of the whole run.
        delta: of the guarantee; the same at all sites.
        max_update_norm: largest L2 norm of an update.
        noise_multiplier: the least noise that the run asks for; null takes what epsilon needs.
        max_epsilon: the site's limit for one run; null for none.
        lifetime_epsilon: the site's limit for all runs on the data set; null for none.
        min_noise_multiplier: the least noise that the site accepts.
        spare_rounds: further rounds that the noise is calibrated for, so that a failed round costs no site its last.
        lifetime_delta: the delta at which the site measures all runs together.
        max_failures: the site's limit on failed private requests on the data set, of all runs; null for none.
        noise: `local`: each site adds the noise of its own update.

    """

    is_private = True
    is_auditable = True
    shares_noise = False
    unit = "client"

    def __init__(
        self,
        dataset: str,
        epsilon: float,
        delta: float = DEFAULT_DELTA,
        max_update_norm: float = 1.0,
        noise_multiplier: float | None = None,
        max_epsilon: float | None = None,
        lifetime_epsilon: float | None = None,
        min_noise_multiplier: float = 0.0,
        spare_rounds: int = 1,
        lifetime_delta: float = LIFETIME_DELTA,
        max_failures: int | None = None,
        noise: Literal["local"] = "local",
    ) -> None:
        if noise != "local":
            raise PrivacyError(f"privacy.noise: {noise!r} is not built for privacy=client", "Use local.")
        run_epsilon, lifetime = min(epsilon, max_epsilon or math.inf), lifetime_epsilon or math.inf
        self.budget = PrivacyBudget(
            dataset, run_epsilon, lifetime, min_noise_multiplier, 1, lifetime_delta, max_failures
        )
        self.epsilon, self.delta, self.spare_rounds = epsilon, delta, spare_rounds
        self.clipping, self.noise_multiplier = Clipping(max_update_norm), noise_multiplier

    def check_can_join(self, task: TrainingTask, accounting: AccountingContext) -> list[str]:
        """Return why this site cannot take part."""
        try:
            self.budget.check_run(self.make_plan(accounting), accounting)
        except PrivacyError as fault:
            log.warning("declined: %s", fault)
            return [fault.problem]
        if failures := list_audit_failures(self, task, replace(accounting, purpose="train")):
            log.warning("declined: the audit of the noised update fails: %s", "; ".join(failures))
            return [FAILED_AUDIT]
        return []

    def count_round_steps(self, task: TrainingTask, accounting: AccountingContext) -> int:
        """Return the number of optimizer steps of one round."""
        return count_steps(task.training, len(task.rows))

    def compute_least_noise(self, task: TrainingTask, accounting: AccountingContext) -> tuple[float, float]:
        """Return zeros: the site adds all noise itself."""
        return 0.0, 0.0

    def plan_task(self, task: TrainingTask, accounting: AccountingContext) -> PrivacyPlan:
        """Return the plan of the whole run."""
        return self.make_plan(accounting)

    def plan_run(
        self, work: Workload, training: TrainingConfig, rounds: int, shares: int = 1
    ) -> tuple[PrivacyBudget, PrivacyPlan]:
        """Return what the whole run would spend."""
        return self.budget, self._make_plan(rounds)

    def make_plan(self, accounting: AccountingContext) -> PrivacyPlan:
        """Return the whole run's plan: one release per round."""
        return self._make_plan(accounting.rounds)

    def _make_plan(self, rounds: int) -> PrivacyPlan:
        request = PrivacyRequest(
            unit="client",
            epsilon=self.epsilon,
            sample_rate=1.0,
            steps=1,
            rounds=rounds,
            clipping=self.clipping,
            noise_multiplier=self.noise_multiplier,
            delta=self.delta,
            spare_rounds=self.spare_rounds,
        )
        return self.budget.make_plan(request, 1)

    def count_units(self, task: TrainingTask) -> int:
        """Return 1: the unit is the site."""
        return 1

    def count_weighted_rows(self, patients: np.ndarray) -> int:
        """Return the number of rows; the weights do not follow it."""
        return len(patients)

    def compute_aggregation_weights(self, rows: Mapping[str, int]) -> dict[str, int]:
        """Return equal weights: an exact count would leak the number of patients."""
        return {tower: min(count, 1) for tower, count in rows.items()}

    def fit(self, task: TrainingTask, accounting: AccountingContext | None = None) -> FitReport:
        """Book the round and train without noise; `protect_update` adds the noise before anything leaves the site.

        Also training that diverges ends without an error, and the report has no loss: neither has noise.

        Raises:
            PrivacyError: the budget is exhausted, or the ledger is damaged or in use.

        """
        if accounting is None:
            raise PrivacyError("private training needs a ledger", "Pass an AccountingContext: fit(task, accounting).")
        plan = self.make_plan(accounting)
        with self.budget.open_ledger(accounting.folder) as ledger:
            self.budget.book(ledger, plan, accounting, plan.round_event)
        return replace(fit_without_noise(task, accounting), loss=math.nan)

    def select_scored_rows(self, examples: Examples, rows: np.ndarray) -> np.ndarray:
        """Return all rows."""
        return rows

    def protect_update(self, update: State, task: TrainingTask, accounting: AccountingContext) -> State:
        """Clip and noise the update, which the round's open booking pays for.

        Raises:
            PrivacyError: the round is not booked, or its booking is closed.

        """
        plan = self.make_plan(accounting)
        with self.budget.open_ledger(accounting.folder) as ledger:
            booking = find_open_booking(ledger.entries, accounting.run, accounting.purpose)
        if booking is None or (booking.rounds[-1], booking.entry.event) != (accounting.round, plan.round_event):
            raise PrivacyError(f"round {accounting.round} has no open booking", "Train first; nothing leaves.")
        tensors = {name: torch.from_numpy(np.array(value)) for name, value in update.items()}
        return {name: value.numpy() for name, value in clip_and_noise_update(tensors, plan, NoiseSource()).items()}

    def release_statistics(
        self, statistics: Statistics, task: TrainingTask, accounting: AccountingContext
    ) -> Statistics:
        """Return nothing: a whole site's counts have no bounded sensitivity."""
        return {}
