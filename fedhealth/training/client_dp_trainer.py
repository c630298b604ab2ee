"""Client-level differential privacy: the site's update is clipped and noised before it leaves.

Noise that is drawn jointly inside secure aggregation could be smaller. It would replace `protect_update`; the booked
event would stay the same.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping

import numpy as np
import torch

from fedhealth.config.schema import TrainingConfig
from fedhealth.data.examples import Examples
from fedhealth.errors import PrivacyError
from fedhealth.privacy.accounting.budget import PrivacyBudget
from fedhealth.privacy.accounting.plan import PrivacyPlan, PrivacyRequest
from fedhealth.privacy.context import AccountingContext
from fedhealth.privacy.engines.client_level import clip_and_noise_update
from fedhealth.privacy.mechanisms.clipping import Clipping
from fedhealth.privacy.mechanisms.gaussian_noise import NoiseSource
from fedhealth.training.trainer import FitReport, PlainTrainer, Statistics, TrainingTask, Workload
from fedhealth.types import State

log = logging.getLogger("fedhealth.site")


class ClientDPTrainer:
    """Ordinary training with a noised update.

    Args:
        dataset: its name, for the ledger.
        epsilon: of the whole run.
        delta: of the guarantee; well below 1 / number of sites.
        max_update_norm: largest L2 norm of an update.
        noise_multiplier: the least noise that the run asks for; null takes what epsilon needs.
        max_epsilon: the site's limit for one run; null for none.
        lifetime_epsilon: the site's limit for all runs on the data set; null for none.
        min_noise_multiplier: the least noise that the site accepts.

    """

    is_private = True
    unit = "client"

    def __init__(
        self,
        dataset: str,
        epsilon: float,
        delta: float = 1e-5,
        max_update_norm: float = 1.0,
        noise_multiplier: float | None = None,
        max_epsilon: float | None = None,
        lifetime_epsilon: float | None = None,
        min_noise_multiplier: float = 0.0,
    ) -> None:
        self.budget = PrivacyBudget(
            dataset, min(epsilon, max_epsilon or math.inf), lifetime_epsilon or math.inf, min_noise_multiplier
        )
        self.epsilon, self.delta = epsilon, delta
        self.clipping, self.noise_multiplier = Clipping(max_update_norm), noise_multiplier

    def check_can_join(self, task: TrainingTask, accounting: AccountingContext) -> list[str]:
        """Return why this site cannot take part."""
        try:
            self.budget.check_run(self.make_plan(accounting), accounting)
        except PrivacyError as fault:
            log.warning("declined: %s", fault)
            return [fault.problem]
        return []

    def plan_run(self, work: Workload, training: TrainingConfig, rounds: int) -> tuple[PrivacyBudget, PrivacyPlan]:
        """Return what the whole run would spend."""
        return self.budget, self._make_plan(rounds)

    def make_plan(self, accounting: AccountingContext) -> PrivacyPlan:
        """Return the whole run's plan: one release per round."""
        return self._make_plan(accounting.rounds)

    def _make_plan(self, rounds: int) -> PrivacyPlan:
        request = PrivacyRequest(
            "client", self.epsilon, 1.0, 1, rounds, self.clipping, self.noise_multiplier, self.delta
        )
        return self.budget.make_plan(request, 1)

    def compute_aggregation_weights(self, rows: Mapping[str, int]) -> dict[str, int]:
        """Return equal weights: an exact count would leak the number of patients."""
        return {tower: min(count, 1) for tower, count in rows.items()}

    def fit(self, task: TrainingTask, accounting: AccountingContext | None = None) -> FitReport:
        """Train without noise; `protect_update` adds the noise before anything leaves the site."""
        return PlainTrainer().fit(task, accounting)

    def select_scored_rows(self, examples: Examples, rows: np.ndarray) -> np.ndarray:
        """Return all rows."""
        return rows

    def protect_update(self, update: State, task: TrainingTask, accounting: AccountingContext) -> State:
        """Book the round, then clip and noise the update.

        Raises:
            PrivacyError: the budget is exhausted, or the update is not finite.

        """
        plan = self.make_plan(accounting)
        tensors = {name: torch.from_numpy(np.array(value)) for name, value in update.items()}
        with self.budget.open_ledger(accounting.folder) as ledger:
            self.budget.book(ledger, plan, accounting, accounting.round, plan.round_event)
            return {name: value.numpy() for name, value in clip_and_noise_update(tensors, plan, NoiseSource()).items()}

    def release_statistics(
        self, statistics: Statistics, task: TrainingTask, accounting: AccountingContext
    ) -> Statistics:
        """Return nothing: a whole site's counts have no bounded sensitivity."""
        return {}
