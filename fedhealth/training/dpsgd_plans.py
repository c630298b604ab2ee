"""What DP-SGD costs: the settings of private training, and the plans that follow from them and from public numbers.

A plan binds sampling, clipping, noise and the booked event. It is the same on every call, so a site computes it anew
for every request instead of storing it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import numpy as np

from fedhealth.config.schema import TrainingConfig
from fedhealth.data.examples import Examples
from fedhealth.errors import PrivacyError
from fedhealth.privacy.accounting.budget import PrivacyBudget
from fedhealth.privacy.accounting.ledger_entry import LIFETIME_DELTA
from fedhealth.privacy.accounting.plan import DEFAULT_DELTA, PrivacyPlan, PrivacyRequest, bucket_count
from fedhealth.privacy.context import AccountingContext
from fedhealth.privacy.engines.book_keeping import BookKeepingEngine
from fedhealth.privacy.engines.opacus_hooks import OpacusEngine
from fedhealth.privacy.engines.oracle import OracleEngine
from fedhealth.privacy.engines.self_check import EngineFactory
from fedhealth.privacy.mechanisms.clipping import Clipping
from fedhealth.privacy.mechanisms.histogram_release import select_studies_per_patient
from fedhealth.training.noise_shares import check_share_count, check_shared_settings
from fedhealth.training.optimizers import count_steps
from fedhealth.training.private_batches import group_rows_by_unit
from fedhealth.training.release_records import ReleaseRecords
from fedhealth.training.trainer import TrainingTask, Workload

ENGINES: Mapping[str, EngineFactory] = {"bk": BookKeepingEngine, "opacus": OpacusEngine, "oracle": OracleEngine}


class DPSGDPlans(ReleaseRecords):
    """The settings and plans of DP-SGD over patients or studies.

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
        max_physical_batch_size: rows computed at a time; changes memory, not the result. Null takes as many as fit into
            a share of the free memory, at most 256.
        noise_multiplier: the least noise that the run asks for; null takes what epsilon needs.
        noise: `local` (or null) if each site adds the noise of its own sum; `shared` if the honest sites of a secure
            sum add it together: each adds less, and the promise rests on how many of them collude.
        score_release_share: share of the budget for the final model's score histograms; 0 releases none.
        subgroup_release_share: of that share, the part for scores by subgroup; 0 releases none by subgroup. Where the
            noise is shared, all histograms have the same noise, whatever this part is.
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
        max_physical_batch_size: int | None = None,
        noise_multiplier: float | None = None,
        score_release_share: float = 0.1,
        spare_rounds: int = 1,
        max_epsilon: float | None = None,
        lifetime_epsilon: float | None = None,
        min_noise_multiplier: float = 0.0,
        min_cohort: int = 10,
        lifetime_delta: float = LIFETIME_DELTA,
        max_failures: int | None = None,
        noise: Literal["local", "shared"] | None = None,
        max_local_epsilon: float | None = None,
        lifetime_local_epsilon: float | None = None,
        subgroup_release_share: float = 0.0,
    ) -> None:
        if unit not in ("patient", "record"):
            raise PrivacyError(f"privacy.unit: unknown unit {unit!r}", "Use patient, record or privacy=client.")
        if noise not in (None, "local", "shared"):
            raise PrivacyError(f"privacy.noise: unknown noise {noise!r}", "Use local or shared.")
        if engine not in ENGINES:
            raise PrivacyError(f"privacy.engine: unknown engine {engine!r}", f"Use one of {', '.join(ENGINES)}.")
        if sample_rate is not None and not 0 < sample_rate <= 1:
            raise PrivacyError(
                f"privacy.sample_rate: {sample_rate} is not in (0, 1]", "Leave it null, or give a probability."
            )
        if max_physical_batch_size is not None and max_physical_batch_size < 1:
            raise PrivacyError(
                f"privacy.max_physical_batch_size: {max_physical_batch_size} is below 1",
                "Leave it null, or give a number of rows.",
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
        self.make_engine = ENGINES[engine]

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
        shares = self._count_shares(training, shares)
        return self.budget, self._make_plan(units, patients, work.modalities, training, rounds, shares)

    def plan_task(self, task: TrainingTask, accounting: AccountingContext) -> PrivacyPlan:
        """Return the plan of the whole run for its purpose: to train, or to describe."""
        is_descriptive = accounting.purpose == "describe"
        return self.make_descriptive_plan(task, accounting) if is_descriptive else self.make_plan(task, accounting)

    def make_plan(self, task: TrainingTask, accounting: AccountingContext) -> PrivacyPlan:
        """Return the whole run's plan at this site.

        Raises:
            PrivacyError: no plan meets the run's target epsilon and the site's policy.

        """
        patients = len(np.unique(task.examples.patient[task.rows]))
        units = patients if self.unit == "patient" else len(self.group_units(task))
        is_training = accounting.purpose != "describe"
        shares = self._count_shares(task.training, accounting.shares) if is_training else 1
        return self._make_plan(units, patients, task.model.modalities, task.training, accounting.rounds, shares)

    def _count_shares(self, training: TrainingConfig, shares: int) -> int:
        """Return how many honest sites share the noise of a sum; 1 if this site adds all of it."""
        if not self.shares_noise:
            return 1
        check_shared_settings(training, self.sample_rate)
        check_share_count(shares)
        return shares

    def _make_plan(
        self, units: int, patients: int, modalities: frozenset[str], training: TrainingConfig, rounds: int, shares: int
    ) -> PrivacyPlan:
        towers = tuple(f"towers.{name}" for name in sorted(modalities)) if self.clipping == "tower" else ()
        if patients < self.budget.min_cohort:
            units = 1  # below the minimum, the exact number stays secret
        size = bucket_count(units)
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
            shares=shares,
        )
        return self.budget.make_plan(request, units)

    def make_descriptive_plan(self, task: TrainingTask, accounting: AccountingContext) -> PrivacyPlan:
        """Return the plan of a run that releases counts of patients and trains nothing.

        Raises:
            PrivacyError: no plan meets the run's target epsilon and the site's policy.

        """
        units = len(np.unique(task.examples.patient))
        if self.shares_noise:
            check_share_count(accounting.shares)
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
            shares=accounting.shares if self.shares_noise else 1,
        )
        return self.budget.make_plan(request, units)

    def group_units(self, task: TrainingTask) -> list[list[int]]:
        """Return the training rows of each unit."""
        examples = task.examples
        if self.unit == "patient":
            return group_rows_by_unit(examples.patient, task.rows)
        return group_rows_by_unit(examples.study, self.cap_studies(examples, task.rows))

    def cap_studies(self, examples: Examples, rows: np.ndarray) -> np.ndarray:
        """Return the rows of every patient's first studies."""
        return select_studies_per_patient(examples.study, examples.patient, rows, self.max_records_per_patient)
