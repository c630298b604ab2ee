"""Privacy accountant: compute epsilon from privacy events, and calibrate the noise to a target epsilon.

Quick estimates use RDP, which never underestimates; reports and calibration use PRV (Gopi et al., NeurIPS 2021). Both
come from Opacus. PRV's own error bound is added, so the result is an upper bound. The central limit theorem of Gaussian
differential privacy (`gdp`) is never used: it underestimates.
"""

import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from opacus.accountants import PRVAccountant
from opacus.accountants.analysis.prv import Domain
from opacus.accountants.analysis.rdp import compute_rdp, get_privacy_spent

from fedhealth.errors import PrivacyError

# Whole orders have a closed form, a hundred times faster than the others.
_ORDERS = [1.25, 1.5, 1.75, *range(2, 33), *range(36, 65, 4), 80, 96, 128, 192, 256, 512, 1024]
# PRV keeps its grid in memory; above this epsilon, which no run should reach, the RDP result is returned.
_PRV_LIMIT = 60.0
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

    """

    noise_multiplier: float
    sample_rate: float
    steps: int

    def __post_init__(self) -> None:
        if not (0 < self.noise_multiplier < math.inf and 0 < self.sample_rate <= 1 and self.steps >= 1):
            raise PrivacyError(
                f"an event with noise multiplier {self.noise_multiplier}, sample rate {self.sample_rate} and "
                f"{self.steps} steps cannot be accounted",
                "The noise multiplier must be positive, the sample rate in (0, 1] and the steps at least 1.",
            )


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
    """Return epsilon at `delta` of all events together: an upper bound within about 1 % of the true value.

    Args:
        events: in any order and of any runs; all of them are composed.
        delta: in (0, 1).

    """
    return _compute_epsilon_cached(tuple(_merge_events(events)), delta)


@lru_cache(maxsize=256)
def _compute_epsilon_cached(history: tuple[tuple[float, float, int], ...], delta: float) -> float:
    online = compute_epsilon_rdp([PrivacyEvent(*entry) for entry in history], delta)
    if online > _PRV_LIMIT:
        return online
    if all(sample_rate == 1 for _, sample_rate, _ in history):
        return _compute_epsilon_gaussian(
            math.sqrt(sum(steps / noise_multiplier**2 for noise_multiplier, _, steps in history)), delta
        )
    exact = _compute_epsilon_prv(history, delta, online)
    if exact < 0.7 * online:  # the RDP estimate was rough: repeat with an error that fits
        exact = _compute_epsilon_prv(history, delta, exact)
    return min(online, exact)


class _FastPRVAccountant(PRVAccountant):  # type: ignore[misc]
    """Opacus's accountant with fewer RDP orders for choosing its grid, which took nearly all of its time."""

    def _get_domain(
        self, prvs: list[Any], num_self_compositions: list[int], eps_error: float, delta_error: float
    ) -> Domain:
        """Return the grid of remark 5.6 in Gopi et al.; its width may come from any bound on the truncation error."""
        total = sum(num_self_compositions)
        single = [
            compute_epsilon_rdp([PrivacyEvent(prv.noise_multiplier, prv.sample_rate, 1)], delta_error / (8 * total))
            for prv in prvs
        ]
        events = [PrivacyEvent(*entry) for entry in self.history]
        width = max(compute_epsilon_rdp(events, delta_error / 4), *single, eps_error) + 3
        return Domain.create_aligned(-width, width, eps_error / math.sqrt(total * math.log(12 / delta_error) / 2))


def _compute_epsilon_prv(history: tuple[tuple[float, float, int], ...], delta: float, estimate: float) -> float:
    """Return PRV's upper bound with an error of 0.6 % of the estimate; infinite if its grid is too small."""
    accountant = _FastPRVAccountant()
    accountant.history = list(history)
    error = min(max(0.006 * estimate, 2e-4), 0.05)
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            bound = float(accountant.get_epsilon(delta, eps_error=error, delta_error=delta / 1000))
    except (RuntimeError, ValueError):
        return math.inf
    return bound if math.isfinite(bound) else math.inf


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

    def excess(noise_multiplier: float) -> float:
        return math.log(
            max(compute_epsilon([PrivacyEvent(noise_multiplier, sample_rate, steps), *others], delta), 1e-100) / target
        )

    high = _calibrate_by_rdp(target, delta, sample_rate, steps, others)
    low = high / 2
    at_high, at_low = excess(high), excess(low)
    while at_low < 0:
        high, at_high, low = low, at_low, low / 2
        at_low = excess(low)
    while high / low > 1.005 and at_high < -0.005:
        # The logarithms are nearly linear: go to the safe side of the point where the line meets the target.
        share = min(max(at_low / (at_low - at_high) + 0.02, 0.05), 0.95)
        middle = low * (high / low) ** share
        at_middle = excess(middle)
        low, at_low, high, at_high = (
            (low, at_low, middle, at_middle) if at_middle <= 0 else (middle, at_middle, high, at_high)
        )
    return high


def _calibrate_by_rdp(
    target: float, delta: float, sample_rate: float, steps: int, others: Sequence[PrivacyEvent]
) -> float:
    """Return a noise multiplier that is large enough by RDP, so by PRV too."""

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
