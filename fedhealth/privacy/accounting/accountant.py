"""From what was done to what it costs: events to epsilon.

Online estimates use RDP (fast, never too low); reports and calibration use PRV (Gopi et al., NeurIPS 2021), both from
Opacus. PRV's own error bound is added, so the number is an upper bound. Gaussian differential privacy's central limit
(`gdp`) is never used: it underestimates.
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
# PRV keeps its grid in memory; beyond this epsilon RDP answers (nobody should be there).
_PRV_LIMIT = 60.0
_MAX_SIGMA = 1e4
# On the closed form, so that it is never below a pessimistic numerical accountant's answer.
_MARGIN = 1.001


@dataclass(frozen=True)
class Event:
    """`steps` releases of a Gaussian mechanism on Poisson samples: all that an accountant needs to know.

    Attributes:
        sigma: noise standard deviation divided by the L2 sensitivity.
        rate: probability with which each unit is in a step's batch; 1 for no sampling.
        steps: how many releases.

    """

    sigma: float
    rate: float
    steps: int

    def __post_init__(self) -> None:
        if not (0 < self.sigma < math.inf and 0 < self.rate <= 1 and self.steps >= 1):
            raise PrivacyError(
                f"an event with sigma {self.sigma}, rate {self.rate} and {self.steps} steps cannot be accounted",
                "sigma must be positive, the rate in (0, 1] and the steps at least 1.",
            )


def _merged(events: Iterable[Event]) -> list[tuple[float, float, int]]:
    """Return Opacus's history with one entry a (sigma, rate): its cost grows with the entries."""
    steps: dict[tuple[float, float], int] = {}
    for event in events:
        steps[event.sigma, event.rate] = steps.get((event.sigma, event.rate), 0) + event.steps
    return [(sigma, rate, count) for (sigma, rate), count in steps.items()]


def epsilon_online(events: Iterable[Event], delta: float) -> float:
    """Return an upper bound on epsilon by RDP, in milliseconds; 0 for no events."""
    history = _merged(events)
    if not history:
        return 0.0
    total = sum(steps * _rdp(sigma, rate) for sigma, rate, steps in history)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the best order is the largest: the bound is loose, not wrong
        return max(0.0, float(get_privacy_spent(orders=_ORDERS, rdp=total, delta=_valid(delta))[0]))


@lru_cache(maxsize=1024)
def _rdp(sigma: float, rate: float) -> np.ndarray:
    """Return what one release costs at every order; releases add up, so a round is not computed twice."""
    return np.asarray(compute_rdp(q=rate, noise_multiplier=sigma, steps=1, orders=_ORDERS))


def epsilon(events: Iterable[Event], delta: float) -> float:
    """Return epsilon at `delta` of all events together, an upper bound within about 1 %.

    Args:
        events: in any order, of any runs; composition is over all of them.
        delta: in (0, 1).

    """
    return _epsilon(tuple(_merged(events)), delta)


@lru_cache(maxsize=256)
def _epsilon(history: tuple[tuple[float, float, int], ...], delta: float) -> float:
    online = epsilon_online([Event(*entry) for entry in history], delta)
    if online > _PRV_LIMIT:
        return online
    if all(rate == 1 for _, rate, _ in history):
        return _gaussian(math.sqrt(sum(steps / sigma**2 for sigma, _, steps in history)), delta)
    exact = _prv(history, delta, online)
    if exact < 0.7 * online:  # the first estimate was rough: measure again with an error to match
        exact = _prv(history, delta, exact)
    return min(online, exact)


class _Prv(PRVAccountant):  # type: ignore[misc]
    """Opacus's accountant with our orders in the choice of its domain, which took nearly all of its time."""

    def _get_domain(
        self, prvs: list[Any], num_self_compositions: list[int], eps_error: float, delta_error: float
    ) -> Domain:
        """Return the grid of remark 5.6 in Gopi et al.: any bound on the truncation error may be used for its width."""
        total = sum(num_self_compositions)
        single = [
            epsilon_online([Event(prv.noise_multiplier, prv.sample_rate, 1)], delta_error / (8 * total)) for prv in prvs
        ]
        events = [Event(*entry) for entry in self.history]
        width = max(epsilon_online(events, delta_error / 4), *single, eps_error) + 3
        return Domain.create_aligned(-width, width, eps_error / math.sqrt(total * math.log(12 / delta_error) / 2))


def _prv(history: tuple[tuple[float, float, int], ...], delta: float, estimate: float) -> float:
    """Return PRV's upper bound with an error of 0.6 % of the estimate; infinite where its grid cannot hold it."""
    accountant = _Prv()
    accountant.history = list(history)
    error = min(max(0.006 * estimate, 2e-4), 0.05)
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            bound = float(accountant.get_epsilon(delta, eps_error=error, delta_error=delta / 1000))
    except (RuntimeError, ValueError):
        return math.inf
    return bound if math.isfinite(bound) else math.inf


def _gaussian(mu: float, delta: float) -> float:
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


def _valid(delta: float) -> float:
    if not 0 < delta < 1:
        raise PrivacyError(f"delta {delta} is not between 0 and 1", "Use about 1 / (10 x number of patients).")
    return delta


def calibrate(target: float, delta: float, rate: float, steps: int, beside: Sequence[Event] = ()) -> float:
    """Return the smallest sigma (within 0.5 %) with which the whole run stays within epsilon `target`.

    Args:
        target: epsilon of the whole run.
        delta: its delta.
        rate: sampling rate per step.
        steps: of all rounds together.
        beside: what else the run releases, within the same target.

    Raises:
        PrivacyError: when no usable amount of noise reaches the target.

    """
    if not target > 0:
        raise PrivacyError(f"target epsilon {target} is not positive", "Set privacy.epsilon above 0.")

    def excess(sigma: float) -> float:
        return math.log(max(epsilon([Event(sigma, rate, steps), *beside], delta), 1e-100) / target)

    high = _sigma_by_rdp(target, delta, rate, steps, beside)
    low = high / 2
    at_high, at_low = excess(high), excess(low)
    while at_low < 0:
        high, at_high, low = low, at_low, low / 2
        at_low = excess(low)
    while high / low > 1.005 and at_high < -0.005:
        # The logarithms are nearly in a line; a little to the safe side of where that line meets the target.
        share = min(max(at_low / (at_low - at_high) + 0.02, 0.05), 0.95)
        middle = low * (high / low) ** share
        at_middle = excess(middle)
        low, at_low, high, at_high = (
            (low, at_low, middle, at_middle) if at_middle <= 0 else (middle, at_middle, high, at_high)
        )
    return high


def _sigma_by_rdp(target: float, delta: float, rate: float, steps: int, beside: Sequence[Event]) -> float:
    """Return a sigma that is certainly enough."""

    def enough(sigma: float) -> bool:
        return epsilon_online([Event(sigma, rate, steps), *beside], delta) <= target

    high = 0.25
    while not enough(high):
        high *= 2
        if high > _MAX_SIGMA:
            raise PrivacyError(
                f"epsilon {target} at delta {delta} is unreachable with rate {rate} and {steps} steps",
                "Ask for a larger epsilon or delta, fewer steps, or a lower sampling rate.",
            )
    low = high / 2
    while high / low > 1.02:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
