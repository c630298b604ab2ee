"""The weighted mean of FedAvg (McMahan et al., AISTATS 2017), as an exact sum.

Updates are added as 64-bit integers in fixed point, so the result does not depend on the order of the replies, and
the memory is one accumulator of the model's size for any number of sites.
"""

from __future__ import annotations

import numpy as np
from flwr.app import RecordDict

from fedhealth.errors import FederationError
from fedhealth.models.modality_keys import get_tower
from fedhealth.types import State
from strategies.aggregation.base import Aggregate, RoundAttempt, SendFollowUp
from strategies.aggregation.checks import add_statistics, check_norm, check_statistics, check_update, read_reply
from strategies.aggregation.stateless import StatelessAggregation

SCALE = 2.0**32  # resolution 2.3e-10 of weight x update
_MAX_SUM = 2.0**62  # of all sites, in units of 1 / SCALE
_CHUNK = 1 << 18  # values converted at once, to bound the temporary memory


class WeightedMean(StatelessAggregation):
    """Sum weight x update over the sites for each tower; divide once at the end.

    A tower is weighted by the rows that had its modality: a site without notes does not dilute the text tower.

    Args:
        max_norm: the largest allowed L2 norm of an update, float32 by name; None for no limit.

    Raises:
        FederationError: from `add`, for a reply that is invalid; from `close`, if no site replied.

    """

    def __init__(self, max_norm: float | None = None) -> None:
        self.max_norm = max_norm

    def open(self, attempt: RoundAttempt) -> None:
        """Begin a round."""
        self._sums = {name: np.zeros(array.shape, np.int64) for name, array in attempt.expected.items()}
        self._weights, self._expected = attempt.weights, attempt.statistics
        self._ceiling = _MAX_SUM / max(1, len(attempt.weights))
        self._statistics: dict[str, np.ndarray] = {}
        self._sites: list[str] = []

    def add(self, site: str, content: RecordDict) -> dict[str, np.ndarray]:
        """Add one site's update and statistics."""
        update, statistics = read_reply(content)
        self._check_reply(site, update)
        check_statistics(site, statistics, self._expected)
        for name, values in update.items():
            if weight := self._get_weight(site, name):
                _add_scaled(self._sums[name].reshape(-1), values.reshape(-1), weight * SCALE)
        add_statistics(self._statistics, statistics)
        self._sites.append(site)
        return statistics

    def close(self, send_follow_up: SendFollowUp) -> Aggregate:
        """Divide each sum by the total weight of the sites that replied."""
        if not self._sites:
            raise FederationError("No site replied.", "See the reasons above and the sites' own logs.")
        update: State = {}
        for name in list(self._sums):
            total = sum(self._get_weight(site, name) for site in self._sites)
            summed = self._sums.pop(name)
            if total:
                update[name] = _divide_in_chunks(summed, total * SCALE)
        return Aggregate(update, self._statistics, tuple(sorted(self._sites)))

    def _get_weight(self, site: str, name: str) -> float:
        return self._weights[site].get(get_tower(name), 0.0)

    def _check_reply(self, site: str, update: State) -> None:
        """Check the whole reply before any part of it is added."""
        if site not in self._weights or site in self._sites:
            raise FederationError(f"Site {site!r} replied twice or was not requested.", "Restart the site.")
        check_update(site, update, self._sums)
        if self.max_norm is not None:
            check_norm(site, update, self.max_norm)
        for name, values in update.items():
            peak = max(abs(float(values.max(initial=0.0))), abs(float(values.min(initial=0.0))))
            if not peak * self._get_weight(site, name) * SCALE < self._ceiling:
                raise FederationError(
                    f"Site {site!r} sent {name} with values up to {peak:g}.",
                    "Lower the learning rate; its training may have diverged.",
                )


def _divide_in_chunks(summed: np.ndarray, divisor: float) -> np.ndarray:
    mean = np.empty(summed.shape, np.float32)
    flat, out = summed.reshape(-1), mean.reshape(-1)
    for start in range(0, flat.size, _CHUNK):
        out[start : start + _CHUNK] = flat[start : start + _CHUNK] / divisor
    return mean


def _add_scaled(total: np.ndarray, values: np.ndarray, factor: float) -> None:
    for start in range(0, values.size, _CHUNK):
        part = values[start : start + _CHUNK].astype(np.float64)
        part *= factor
        total[start : start + _CHUNK] += np.rint(part, out=part).astype(np.int64)
