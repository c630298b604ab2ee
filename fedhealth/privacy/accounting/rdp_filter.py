"""A privacy filter: it decides whether one more event fits a budget, although events may depend on earlier results.

Ordinary composition fixes all noise multipliers and sample rates before the first result. The settings of a later run
may follow the results of earlier ones. A Renyi filter of one order, chosen from the budget alone, stays valid then: it
stops before the sum of the Renyi divergences exceeds its bound (Feldman and Zrnic, "Individual privacy accounting via a
Renyi filter", NeurIPS 2021, theorem 4.3). The conversion to (epsilon, delta) is that of Balle et al. (AISTATS 2020).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from fedhealth.errors import PrivacyError
from fedhealth.privacy.accounting.accountant import PrivacyEvent
from fedhealth.privacy.accounting.renyi import compute_rdp

_ORDERS = (*range(2, 65), 80, 96, 128, 192, 256, 512, 1024)  # whole orders have a closed form


@dataclass(frozen=True)
class RDPFilter:
    """A filter for one budget; get it by `make_rdp_filter`.

    Attributes:
        order: of the Renyi divergence.
        epsilon: of the budget.
        delta: of the budget.

    """

    order: int
    epsilon: float
    delta: float

    @property
    def max_rdp(self) -> float:
        """The largest sum of Renyi divergences that keeps the budget; not positive if no event fits."""
        return self.epsilon - _compute_conversion_cost(self.order, self.delta)

    def compute_epsilon(self, events: Iterable[PrivacyEvent]) -> float:
        """Return epsilon of the events by this filter's order; 0 for none."""
        total = sum(event.steps * _compute_rdp(event, self.order) for event in events)
        return max(0.0, total + _compute_conversion_cost(self.order, self.delta)) if total else 0.0

    def is_within_budget(self, events: Iterable[PrivacyEvent]) -> bool:
        """Return whether all events of a history together keep the budget."""
        return self.compute_epsilon(events) <= self.epsilon


@lru_cache(maxsize=64)
def make_rdp_filter(epsilon: float, delta: float) -> RDPFilter:
    """Return the filter of a budget, of the order that admits the most releases without sampling.

    Raises:
        PrivacyError: epsilon is not positive and finite, or delta not in (0, 1).

    """
    if not (0 < epsilon < math.inf and 0 < delta < 1):
        raise PrivacyError(
            f"a budget of epsilon {epsilon} at delta {delta} cannot be filtered",
            "Use epsilon > 0 and 0 < delta < 1.",
        )
    best = max(_ORDERS, key=lambda order: (epsilon - _compute_conversion_cost(order, delta)) / order)
    return RDPFilter(best, epsilon, delta)


def _compute_conversion_cost(order: int, delta: float) -> float:
    """Return epsilon at `delta` of a mechanism whose Renyi divergence is 0, as the conversion gives it."""
    return math.log1p(-1 / order) - (math.log(delta) + math.log(order)) / (order - 1)


def _compute_rdp(event: PrivacyEvent, order: int) -> float:
    return _compute_step_rdp(event.noise_multiplier, event.sample_rate, order)


@lru_cache(maxsize=4096)
def _compute_step_rdp(noise_multiplier: float, sample_rate: float, order: int) -> float:
    return float(compute_rdp(q=sample_rate, noise_multiplier=noise_multiplier, steps=1, orders=[order])[0])
