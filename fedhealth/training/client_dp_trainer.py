"""Training that protects the site as a whole: its update is clipped and noised before it leaves.

Noise drawn jointly inside secure aggregation would need less of it; it would replace `protect` and keep the event.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping

import numpy as np
import torch

from fedhealth.config.schema import TrainingConfig
from fedhealth.data.batches import Examples
from fedhealth.errors import PrivacyError
from fedhealth.privacy.accounting.budget import Allowance
from fedhealth.privacy.accounting.plan import PrivacyPlan, Request
from fedhealth.privacy.context import Place
from fedhealth.privacy.engines.clipping import Clipping
from fedhealth.privacy.mechanisms.client_level import privatise
from fedhealth.privacy.mechanisms.gaussian_noise import NoiseSource
from fedhealth.training.trainer import FitReport, PlainTrainer, Statistics, Task, Workload
from fedhealth.types import State

log = logging.getLogger("fedhealth.site")


class ClientTrainer:
    """Ordinary training, and a noised update.

    Args:
        dataset: its name, for the ledger.
        epsilon: of the whole run.
        delta: of the guarantee; well below 1 / number of sites.
        bound: largest L2 norm of an update.
        sigma: more noise than epsilon needs, if wanted.
        max_epsilon: the site's limit for one run; null for none.
        life_epsilon: the site's limit for all runs on the data set; null for none.
        min_sigma: the least noise that the site accepts.

    """

    private = True
    unit = "client"

    def __init__(
        self,
        dataset: str,
        epsilon: float,
        delta: float = 1e-5,
        bound: float = 1.0,
        sigma: float | None = None,
        max_epsilon: float | None = None,
        life_epsilon: float | None = None,
        min_sigma: float = 0.0,
    ) -> None:
        self.allowance = Allowance(dataset, min(epsilon, max_epsilon or math.inf), life_epsilon or math.inf, min_sigma)
        self.epsilon, self.delta, self.clipping, self.sigma = epsilon, delta, Clipping(bound), sigma

    def objections(self, task: Task, place: Place) -> list[str]:
        """Return why this site cannot take part."""
        try:
            self.allowance.check(self.plan(place), place)
        except PrivacyError as fault:
            log.warning("declined: %s", fault)
            return [fault.problem]
        return []

    def foresee(self, work: Workload, training: TrainingConfig, rounds: int) -> tuple[Allowance, PrivacyPlan]:
        """Return what the whole run would spend."""
        return self.allowance, self._plan(rounds)

    def plan(self, place: Place) -> PrivacyPlan:
        """Return the whole run's plan: one release a round."""
        return self._plan(place.rounds)

    def _plan(self, rounds: int) -> PrivacyPlan:
        request = Request("client", self.epsilon, 1.0, 1, rounds, self.clipping, self.sigma, self.delta)
        return self.allowance.plan(request, 1)

    def weights(self, rows: Mapping[str, int]) -> dict[str, int]:
        """Return equal weights: a count would tell of the site's patients without noise."""
        return {tower: min(count, 1) for tower, count in rows.items()}

    def fit(self, task: Task, place: Place | None = None) -> FitReport:
        """Train without noise; nothing leaves before `protect`."""
        return PlainTrainer().fit(task, place)

    def scored(self, examples: Examples, rows: np.ndarray) -> np.ndarray:
        """Return all rows."""
        return rows

    def protect(self, update: State, task: Task, place: Place) -> State:
        """Book the round, then clip and noise the update.

        Raises:
            PrivacyError: nothing is left to spend; the update is not finite.

        """
        plan = self.plan(place)
        tensors = {name: torch.from_numpy(np.array(value)) for name, value in update.items()}
        with self.allowance.open(place) as ledger:
            self.allowance.book(ledger, plan, place, place.round, plan.round_event)
            return {name: value.numpy() for name, value in privatise(tensors, plan, NoiseSource()).items()}

    def release(self, statistics: Statistics, task: Task, place: Place) -> Statistics:
        """Return nothing: a whole site's counts have no bounded sensitivity."""
        return {}
