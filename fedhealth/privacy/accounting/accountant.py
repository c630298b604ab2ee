"""Privacy accountant: compute epsilon from privacy events, and calibrate the noise to a target epsilon.

Quick estimates use RDP from Opacus, which never underestimates. Reports and calibration use privacy loss distributions
(PLD) from dp-accounting: pessimistic, "connect the dots" (Doroshenko et al., PoPETs 2022), for adding, removing or
zeroing out one unit. The central limit theorem of Gaussian differential privacy is never used: it underestimates.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from fedhealth.errors import PrivacyError
from fedhealth.privacy.accounting.renyi import compute_rdp, get_privacy_spent

if TYPE_CHECKING:
    from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution

# Whole orders have a closed form, a hundred times faster than the others.
_ORDERS = [1.25, 1.5, 1.75, *range(2, 33), *range(36, 65, 4), 80, 96, 128, 192, 256, 512, 1024]
# A PLD keeps its grid in memory; above this epsilon, which no run should reach, the RDP result is returned.
_PLD_LIMIT = 60.0
_LEAST_PLD_DELTA = 1e-11  # below, rounding errors of the Fourier transforms would count
_GRID_ERROR = 5.0  # epsilon's error, at most, per composed release and squared interval of the grid (measured)
_RELATIVE_ERROR = 5e-4  # of epsilon, that the grid is chosen for
_INTERVALS = (2e-5, 4e-3)  # smallest and largest interval of the grid
_EVALUATIONS = 4  # of PLD, in a calibration
_FLATTEST_SLOPE = -0.3  # of log epsilon against the logarithm of the noise
_CLOSE_ENOUGH = 0.997  # share of the target that a calibration may leave unused
_MAX_NOISE_MULTIPLIER = 1e4
# Factor on the closed form, so that it is never below the result of a pessimistic numerical accountant.
_MARGIN = 1.001


@dataclass(frozen=True)
class PrivacyEvent:
    """`steps` releases of a Gaussian mechanism on Poisson samples: all that an accountant needs.

    Attributes:
        noise_multiplier: noise standard deviation divided by the L2 sensitivity.
        sample_rate: probability with which each unit is in a step's batch; 1 for no sampling.
        steps: number of releases.
        shares: honest sites whose noise together has this multiplier; 1 if the site adds the whole noise itself.

    """

    noise_multiplier: float
    sample_rate: float
    steps: int
    shares: int = 1

    def __post_init__(self) -> None:
        known = 0 < self.noise_multiplier < math.inf and 0 < self.sample_rate <= 1
        if not (known and self.steps >= 1 and self.shares >= 1):
            raise PrivacyError(
                f"an event with noise multiplier {self.noise_multiplier}, sample rate {self.sample_rate} and "
                f"{self.steps} steps cannot be accounted",
                "The noise multiplier must be positive, the sample rate in (0, 1] and the steps at least 1.",
            )

    @property
    def local(self) -> PrivacyEvent:
        """The event if everybody else colludes: then only the site's own share of the noise protects."""
        return self if self.shares == 1 else replace(self, noise_multiplier=self.share_multiplier, shares=1)

    @property
    def share_multiplier(self) -> float:
        """The noise multiplier of the site's own share."""
        return self.noise_multiplier / math.sqrt(self.shares)


def get_local_events(events: Iterable[PrivacyEvent]) -> list[PrivacyEvent]:
    """Return the events as they are if everybody else colludes."""
    return [event.local for event in events]


def _merge_events(events: Iterable[PrivacyEvent]) -> list[tuple[float, float, int]]:
    """Return the history as Opacus takes it, with one entry per (noise_multiplier, sample_rate): fewer are faster."""
    steps: dict[tuple[float, float], int] = {}
    for event in events:
        steps[event.noise_multiplier, event.sample_rate] = (
            steps.get((event.noise_multiplier, event.sample_rate), 0) + event.steps
        )
    return [(noise_multiplier, sample_rate, count) for (noise_multiplier, sample_rate), count in steps.items()]


def compute_epsilon_rdp(events: Iterable[PrivacyEvent], delta: float) -> float:
    """Return an upper bound on epsilon by RDP; takes milliseconds. 0 for no events."""
    history = _merge_events(events)
    if not history:
        return 0.0
    total = sum(steps * _compute_rdp(noise_multiplier, sample_rate) for noise_multiplier, sample_rate, steps in history)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the best order is the largest: the bound is loose, not wrong
        return max(0.0, float(get_privacy_spent(orders=_ORDERS, rdp=total, delta=_check_delta(delta))[0]))


@lru_cache(maxsize=1024)
def _compute_rdp(noise_multiplier: float, sample_rate: float) -> np.ndarray:
    """Return the RDP of one release at every order. Releases add up, so the result is cached."""
    return np.asarray(compute_rdp(q=sample_rate, noise_multiplier=noise_multiplier, steps=1, orders=_ORDERS))


def compute_epsilon(events: Iterable[PrivacyEvent], delta: float) -> float:
    """Return epsilon at `delta` of all events together: an upper bound, below 20 within 1 % of the true value.

    Args:
        events: in any order and of any runs; all of them are composed.
        delta: in (0, 1).

    """
    return _compute_epsilon_cached(tuple(_merge_events(events)), delta)


@lru_cache(maxsize=256)
def _compute_epsilon_cached(history: tuple[tuple[float, float, int], ...], delta: float) -> float:
    online = compute_epsilon_rdp([PrivacyEvent(*entry) for entry in history], delta)
    if online > _PLD_LIMIT or delta < _LEAST_PLD_DELTA:
        return online
    if all(sample_rate == 1 for _, sample_rate, _ in history):
        return _compute_epsilon_gaussian(
            math.sqrt(sum(steps / noise_multiplier**2 for noise_multiplier, _, steps in history)), delta
        )
    return min(online, _compute_epsilon_pld(history, delta, choose_interval(online, history)))


def choose_interval(epsilon: float, history: Sequence[tuple[float, float, int]]) -> float:
    """Return the interval of the grid on which a PLD's epsilon of about this size is exact enough."""
    releases = sum(steps for _, _, steps in history)
    least, most = _INTERVALS
    return min(max(math.sqrt(_RELATIVE_ERROR * epsilon / (_GRID_ERROR * releases)), least), most)


def _compute_epsilon_pld(history: Sequence[tuple[float, float, int]], delta: float, interval: float) -> float:
    """Return the upper bound of composed privacy loss distributions on a grid; infinite if they have none."""
    return float(_compose_pld(history, interval).get_epsilon_for_delta(delta))


def compute_advantage(events: Iterable[PrivacyEvent]) -> float:
    """Return an upper bound on the total variation distance that one unit's presence makes, in [0, 1].

    Nobody can guess the presence of a unit, from all these releases, more often than in half of the cases plus half of
    this, however much else they know: the hockey-stick divergence for an epsilon of zero.
    """
    history = _merge_events(events)
    if not history:
        return 0.0
    if all(sample_rate == 1 for _, sample_rate, _ in history):
        mu = math.sqrt(sum(steps / noise_multiplier**2 for noise_multiplier, _, steps in history))
        return 2 * _normal_cdf(mu / 2) - 1
    return float(min(_compose_pld(history, choose_interval(1.0, history)).get_delta_for_epsilon(0.0), 1.0))


def _compose_pld(history: Sequence[tuple[float, float, int]], interval: float) -> PrivacyLossDistribution:
    from dp_accounting.pld.privacy_loss_distribution import from_gaussian_mechanism  # brings scipy.signal: a second

    composed: PrivacyLossDistribution | None = None
    for noise_multiplier, sample_rate, steps in history:
        release = from_gaussian_mechanism(
            noise_multiplier, sampling_prob=sample_rate, value_discretization_interval=interval
        )
        part = release.self_compose(steps)
        composed = part if composed is None else composed.compose(part)
    assert composed is not None  # noqa: S101 - a history has at least one entry
    return composed


def _compute_epsilon_gaussian(mu: float, delta: float) -> float:
    """Return epsilon of the Gaussian mechanism with sensitivity mu, exactly (Balle and Wang, ICML 2018)."""

    def delta_at(eps: float) -> float:
        return _normal_cdf(mu / 2 - eps / mu) - math.exp(eps) * _normal_cdf(-mu / 2 - eps / mu)

    if mu == 0 or delta_at(0.0) <= delta:
        return 0.0
    low, high = 0.0, mu * mu / 2 + mu * math.sqrt(2 * math.log(2 / delta)) + 1
    while high - low > 1e-7 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if delta_at(middle) <= delta else (middle, high)
    return high * _MARGIN


def _normal_cdf(x: float) -> float:
    return math.erfc(-x / math.sqrt(2)) / 2


def _check_delta(delta: float) -> float:
    if not 0 < delta < 1:
        raise PrivacyError(f"delta {delta} is not between 0 and 1", "Use about 1e-6.")
    return delta


def calibrate_noise_multiplier(
    target: float, delta: float, sample_rate: float, steps: int, others: Sequence[PrivacyEvent] = ()
) -> float:
    """Return the smallest noise multiplier (within 0.5 %) with which the whole run stays within epsilon `target`.

    Args:
        target: epsilon of the whole run.
        delta: its delta.
        sample_rate: per step.
        steps: of all rounds together.
        others: what else the run releases within the same target.

    Raises:
        PrivacyError: no usable amount of noise reaches the target.

    """
    if not target > 0:
        raise PrivacyError(f"privacy.epsilon must be positive, not {target}", "Set privacy.epsilon above 0.")

    def compute_run_events(noise_multiplier: float) -> list[PrivacyEvent]:
        return [PrivacyEvent(noise_multiplier, sample_rate, steps), *others]

    enough = candidate = _calibrate_by_rdp(target, delta, sample_rate, steps, others)
    near = [max(compute_epsilon_rdp(compute_run_events(each), delta), 1e-100) for each in (candidate, 1.05 * candidate)]
    slope = math.log(near[0] / near[1]) / math.log(1 / 1.05)
    aim, at_enough, short = target * (1 + _CLOSE_ENOUGH) / 2, target, None
    for _ in range(_EVALUATIONS):
        found = max(compute_epsilon(compute_run_events(candidate), delta), 1e-100)
        if found <= target:
            enough, at_enough = candidate, found
        else:
            short = candidate, found
        if _CLOSE_ENOUGH * target <= found <= target:
            break
        if short is not None:
            slope = math.log(at_enough / short[1]) / math.log(enough / short[0])
        # the logarithm of epsilon is nearly linear in that of the noise
        candidate = enough * (aim / at_enough) ** (1 / min(slope, _FLATTEST_SLOPE))
        if short is not None and not short[0] < candidate < enough:
            candidate = math.sqrt(short[0] * enough)
    return enough


def _calibrate_by_rdp(
    target: float, delta: float, sample_rate: float, steps: int, others: Sequence[PrivacyEvent]
) -> float:
    """Return a noise multiplier that is large enough by RDP, so by PLD too."""

    def is_enough(noise_multiplier: float) -> bool:
        return compute_epsilon_rdp([PrivacyEvent(noise_multiplier, sample_rate, steps), *others], delta) <= target

    high = 0.25
    while not is_enough(high):
        high *= 2
        if high > _MAX_NOISE_MULTIPLIER:
            raise PrivacyError(
                f"epsilon {target} at delta {delta} is unreachable with sample rate {sample_rate} and {steps} steps",
                "Ask for a larger epsilon or delta, fewer steps, or a lower sample rate.",
            )
    low = high / 2
    while high / low > 1.02:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return high
