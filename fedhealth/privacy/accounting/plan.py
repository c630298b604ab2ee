"""The privacy plan: sampling, clipping, noise and the accountant's event in one frozen object.

Whatever trains takes every number from here, so what is booked is what is done.
"""

import math
from dataclasses import dataclass
from typing import Literal

from fedhealth.errors import PrivacyError
from fedhealth.privacy.accounting.accountant import Event, calibrate, epsilon
from fedhealth.privacy.engines.clipping import Clipping

Unit = Literal["patient", "record", "client"]


@dataclass(frozen=True)
class Request:
    """What a run asks of a site; the same for all sites.

    Attributes:
        unit: whom the guarantee protects: each patient, each record, or the site as a whole.
        epsilon: budget of the whole run.
        rate: probability with which a patient is in a step's batch; public and fixed.
        steps: optimizer steps per round.
        rounds: of the whole run.
        clipping: the bound on one unit's contribution.
        sigma: more noise than the budget needs, if the lead wants it.
        delta: None for the site's own, 1 / (10 x bucketed cohort).
        max_rows: studies of one patient used in a step.
        scores: share of the budget kept for one Gaussian release beside the training, the final model's scores.

    """

    unit: Unit
    epsilon: float
    rate: float
    steps: int
    rounds: int
    clipping: Clipping
    sigma: float | None = None
    delta: float | None = None
    max_rows: int = 4
    scores: float = 0.0


@dataclass(frozen=True)
class Limits:
    """What the site's policy demands, whatever a run asks.

    Attributes:
        epsilon: the most one run may spend.
        min_sigma: the least noise.
        min_cohort: the fewest units to train on.

    """

    epsilon: float = math.inf
    min_sigma: float = 0.0
    min_cohort: int = 1


@dataclass(frozen=True)
class PrivacyPlan:
    """Everything that determines the guarantee.

    Attributes:
        unit: whom it protects.
        rate: sampling rate per step.
        steps: per round.
        rounds: of the run.
        clipping: rule and bound C.
        sigma: noise multiplier; the noise's standard deviation is sigma * C.
        normaliser: fixed and public divisor of every noised sum: rate x bucketed cohort.
        delta: of the guarantee.
        max_rows: studies of one patient used in a step.
        scores: the release of the final model's scores, part of the run's cost; None without one.

    """

    unit: Unit
    rate: float
    steps: int
    rounds: int
    clipping: Clipping
    sigma: float
    normaliser: float
    delta: float
    max_rows: int
    scores: Event | None = None

    @property
    def std(self) -> float:
        """Standard deviation of the noise on every coordinate of the clipped sum."""
        return self.sigma * self.clipping.bound

    @property
    def round_event(self) -> Event:
        """What one round costs."""
        return Event(self.sigma, self.rate, self.steps)

    @property
    def run_event(self) -> Event:
        """What the training of the whole run costs."""
        return Event(self.sigma, self.rate, self.steps * self.rounds)

    @property
    def run_events(self) -> tuple[Event, ...]:
        """Everything that the whole run costs."""
        return (self.run_event, self.scores) if self.scores else (self.run_event,)

    @property
    def epsilon(self) -> float:
        """Epsilon of the whole run at the plan's delta."""
        return epsilon(self.run_events, self.delta)


def bucket(count: int) -> int:
    """Round a cohort down to a power of sqrt 2: coarse enough to be public."""
    if count < 1:
        raise PrivacyError("the cohort is empty", "Check the site's manifest.")
    return math.floor(2 ** (math.floor(2 * math.log2(count) + 1e-9) / 2) + 1e-9)


def make_plan(request: Request, limits: Limits, cohort: int) -> PrivacyPlan:
    """Calibrate the noise to the whole run and return the plan; nothing is spent by this.

    Args:
        request: the run's wish.
        limits: the site's policy, which wins.
        cohort: number of units (patients, records) this site trains on.

    Raises:
        PrivacyError: cohort too small, target unreachable, or the run demands less noise than the policy.

    """
    if request.unit not in ("patient", "record", "client"):
        raise PrivacyError(f"unknown privacy unit {request.unit!r}", "Choose patient, record or client.")
    if cohort < limits.min_cohort:
        raise PrivacyError(
            f"the cohort is smaller than the policy's minimum of {limits.min_cohort}",
            "Collect more patients or leave this run.",
        )
    if request.sigma is not None and request.sigma < limits.min_sigma:
        raise PrivacyError(
            f"the run asks for sigma {request.sigma}, below this site's minimum {limits.min_sigma}",
            "Ask for more noise, or leave sigma to the site.",
        )
    client = request.unit == "client"
    rate, steps = (1.0, 1) if client else (request.rate, request.steps)
    delta = request.delta if request.delta is not None else 1 / (10 * bucket(cohort))
    target = min(request.epsilon, limits.epsilon)
    scores = _scores_event(target, delta, request.scores)
    needed = calibrate(target, delta, rate, steps * request.rounds, (scores,) if scores else ())
    return PrivacyPlan(
        unit=request.unit,
        rate=rate,
        steps=steps,
        rounds=request.rounds,
        clipping=request.clipping,
        sigma=max(needed, request.sigma or 0.0, limits.min_sigma),
        normaliser=1.0 if client else max(1.0, rate * bucket(cohort)),
        delta=delta,
        max_rows=request.max_rows if request.unit == "patient" else 1,
        scores=scores,
    )


def _scores_event(target: float, delta: float, share: float) -> Event | None:
    """Return a single release that takes `share` of the squared signal-to-noise ratio which the target allows.

    Gaussian releases add up in that measure, so the training's noise grows by about 1 / sqrt(1 - share).
    """
    if not 0 <= share < 1:
        raise PrivacyError(f"a share of {share} for the scores is not in [0, 1)", "Use about 0.1.")
    return Event(calibrate(target, delta, 1.0, 1) / math.sqrt(share), 1.0, 1) if share else None
