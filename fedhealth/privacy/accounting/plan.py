"""The privacy plan: sampling, clipping, noise and the accountant's event in one frozen object.

Training takes every number from the plan, so the ledger books exactly what is done.
"""

import math
from dataclasses import dataclass, replace

from fedhealth.errors import PrivacyError
from fedhealth.privacy.accounting.accountant import (
    PrivacyEvent,
    calibrate_noise_multiplier,
    compute_epsilon,
    get_local_events,
)
from fedhealth.privacy.accounting.units import PrivacyUnit
from fedhealth.privacy.mechanisms.clipping import Clipping

DEFAULT_DELTA = 1e-6
_ROUNDING = 1 + 1e-9  # of a noise multiplier that is computed from a share
_MAX_EXPECTED_FAILURES = 0.01  # delta x patients: how many patients' protection may be expected to fail


@dataclass(frozen=True)
class PrivacyRequest:
    """What a run requests of a site; the same for all sites.

    Attributes:
        unit: whom the guarantee protects: each patient, each record, or the site as a whole.
        epsilon: budget of the whole run.
        sample_rate: probability with which a patient is in a step's batch; public and fixed.
        steps: optimizer steps per round.
        rounds: of the whole run.
        clipping: the bound on one unit's contribution.
        noise_multiplier: the least noise that the lead asks for; None for what the epsilon needs.
        delta: of the guarantee; the same at all sites.
        max_records_per_patient: studies of one patient used in a step, or, for unit `record`, in the whole run.
        score_release_share: share of the budget for a single Gaussian release of the final model's scores.
        spare_rounds: rounds that the noise is calibrated for in addition, so that a failed one can be repeated.
        shares: the most honest sites that share the noise of a step; 1 if the site adds all of it.

    """

    unit: PrivacyUnit
    epsilon: float
    sample_rate: float
    steps: int
    rounds: int
    clipping: Clipping
    noise_multiplier: float | None = None
    delta: float = DEFAULT_DELTA
    max_records_per_patient: int = 4
    score_release_share: float = 0.0
    spare_rounds: int = 0
    shares: int = 1


@dataclass(frozen=True)
class PlanConstraints:
    """What the site's policy demands of every plan.

    Attributes:
        epsilon: the most one run may spend.
        min_noise_multiplier: the least noise.
        min_cohort: the fewest units to train on.
        local_epsilon: the most one run may spend if everybody else colludes; it counts where the noise is shared.

    """

    epsilon: float = math.inf
    min_noise_multiplier: float = 0.0
    min_cohort: int = 1
    local_epsilon: float = math.inf


@dataclass(frozen=True)
class PrivacyPlan:
    """Everything that determines the guarantee.

    Attributes:
        unit: whom it protects.
        sample_rate: probability with which a unit is in a step's batch.
        steps: per round.
        rounds: of the run.
        clipping: the rule and its bound C.
        noise_multiplier: standard deviation of the noise divided by C.
        expected_batch_size: fixed and public divisor of every noised sum: sample rate x bucketed cohort.
        delta: of the guarantee.
        max_records_per_patient: studies of one patient used in a step, or, for unit `record`, in the whole run.
        score_release_event: the release of the final model's scores, part of the run's cost; None without one. Its
            noise is shared if that of the steps is.
        spare_rounds: rounds that the run may book in addition, where one of its rounds failed.
        shares: the most honest sites that share the noise of a step; 1 if the site adds all of it.

    """

    unit: PrivacyUnit
    sample_rate: float
    steps: int
    rounds: int
    clipping: Clipping
    noise_multiplier: float
    expected_batch_size: float
    delta: float
    max_records_per_patient: int
    score_release_event: PrivacyEvent | None = None
    spare_rounds: int = 0
    shares: int = 1

    @property
    def max_records_per_unit(self) -> int:
        """Studies of one unit used in a step."""
        return self.max_records_per_patient if self.unit == "patient" else 1

    @property
    def noise_std(self) -> float:
        """Standard deviation of the noise on every coordinate of the clipped sum."""
        return self.noise_multiplier * self.clipping.max_grad_norm

    @property
    def round_event(self) -> PrivacyEvent:
        """What one round costs."""
        return PrivacyEvent(self.noise_multiplier, self.sample_rate, self.steps, self.shares)

    @property
    def run_event(self) -> PrivacyEvent:
        """What the training of the whole run costs at most, spare rounds included."""
        return replace(self.round_event, steps=self.steps * (self.rounds + self.spare_rounds))

    @property
    def run_events(self) -> tuple[PrivacyEvent, ...]:
        """Everything that the whole run costs at most."""
        return (self.run_event, self.score_release_event) if self.score_release_event else (self.run_event,)

    @property
    def release_events(self) -> tuple[PrivacyEvent, ...]:
        """Each event that one request of the run may book."""
        return (self.round_event, self.score_release_event) if self.score_release_event else (self.round_event,)

    @property
    def epsilon(self) -> float:
        """Epsilon of the whole run at the plan's delta, in the run's own unit; its spare rounds are included."""
        return compute_epsilon(self.run_events, self.delta)

    @property
    def local_epsilon(self) -> float:
        """The same if everybody else colludes; equal to `epsilon` if the site adds the whole noise."""
        return compute_epsilon(get_local_events(self.run_events), self.delta)


def bucket_count(count: int) -> int:
    """Round a count down to a power of sqrt 2: coarse enough to be public."""
    if count < 1:
        raise PrivacyError("the cohort is empty", "Check the site's manifest.")
    return math.floor(2 ** (math.floor(2 * math.log2(count) + 1e-9) / 2) + 1e-9)


def make_plan(request: PrivacyRequest, constraints: PlanConstraints, cohort: int) -> PrivacyPlan:
    """Calibrate the noise to the whole run and return the plan; nothing is spent by this.

    Args:
        request: of the run.
        constraints: of the site's policy; they take precedence.
        cohort: number of units (patients, records) this site trains on.

    Raises:
        PrivacyError: the cohort is too small, the target unreachable, or the run asks for less noise than the policy.

    """
    _check_request(request, constraints, cohort)
    client = request.unit == "client"
    sample_rate, steps = (1.0, 1) if client else (request.sample_rate, request.steps)
    delta, target = request.delta, min(request.epsilon, constraints.epsilon)
    score_release = _build_score_release_event(request, target, constraints.local_epsilon)
    most_steps = steps * (request.rounds + request.spare_rounds)
    others = (score_release,) if score_release else ()
    needed = calibrate_noise_multiplier(target, delta, sample_rate, most_steps, others)
    if request.shares > 1 and constraints.local_epsilon < math.inf:
        local = get_local_events(others)
        own = calibrate_noise_multiplier(constraints.local_epsilon, delta, sample_rate, most_steps, local)
        needed = max(needed, own * math.sqrt(request.shares) * _ROUNDING)
    return PrivacyPlan(
        unit=request.unit,
        sample_rate=sample_rate,
        steps=steps,
        rounds=request.rounds,
        clipping=request.clipping,
        noise_multiplier=max(needed, request.noise_multiplier or 0.0, constraints.min_noise_multiplier),
        expected_batch_size=1.0 if client else max(1.0, sample_rate * bucket_count(cohort)),
        delta=delta,
        max_records_per_patient=1 if client else request.max_records_per_patient,
        score_release_event=score_release,
        spare_rounds=request.spare_rounds,
        shares=request.shares,
    )


def _check_request(request: PrivacyRequest, constraints: PlanConstraints, cohort: int) -> None:
    """Raise if the request breaks a rule of this project or of the site's policy."""
    if request.unit not in ("patient", "record", "client"):
        raise PrivacyError(f"unknown privacy unit {request.unit!r}", "Choose patient, record or client.")
    if cohort < constraints.min_cohort:
        raise PrivacyError(
            f"the cohort is smaller than the policy's minimum of {constraints.min_cohort}",
            "Collect more patients or leave this run.",
        )
    if request.noise_multiplier is not None and request.noise_multiplier < constraints.min_noise_multiplier:
        raise PrivacyError(
            f"the run asks for noise multiplier {request.noise_multiplier}, below this site's minimum "
            f"{constraints.min_noise_multiplier}",
            "Ask for more noise, or leave privacy.noise_multiplier null.",
        )
    if request.max_records_per_patient < 1 or request.spare_rounds < 0:
        raise PrivacyError(
            "privacy.max_records_per_patient must be at least 1 and privacy.spare_rounds at least 0", "Correct them."
        )
    if request.delta * bucket_count(cohort) > _MAX_EXPECTED_FAILURES:
        raise PrivacyError(
            f"delta {request.delta} times the number of patients is above {_MAX_EXPECTED_FAILURES}",
            "Ask for a smaller privacy.delta.",
        )


def _build_score_release_event(request: PrivacyRequest, target: float, local_target: float) -> PrivacyEvent | None:
    """Return a single release that takes a share of the squared signal-to-noise ratio that the targets allow.

    The squared ratios of Gaussian releases add up, so the training's noise grows by about 1 / sqrt(1 - share).
    """
    share, delta = request.score_release_share, request.delta
    if not 0 <= share < 1:
        raise PrivacyError(f"a score release share of {share} is not in [0, 1)", "Use about 0.1.")
    if not share:
        return None
    needed = calibrate_noise_multiplier(target, delta, 1.0, 1)
    if request.shares > 1 and local_target < math.inf:
        own = calibrate_noise_multiplier(local_target, delta, 1.0, 1)
        needed = max(needed, own * math.sqrt(request.shares) * _ROUNDING)
    return PrivacyEvent(needed / math.sqrt(share), 1.0, 1, request.shares)
