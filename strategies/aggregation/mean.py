"""The weighted mean of FedAvg (McMahan et al., AISTATS 2017), as an exact sum.

Updates are added as 64-bit integers in fixed point, so the result does not depend on the order in which sites answer,
and one accumulator of the model's size is all the memory there is, however many sites take part.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from flwr.app import RecordDict

from fedhealth.errors import FederationError
from fedhealth.models.modality_keys import tower_of
from fedhealth.protocol.array_codec import arrays_in, unpack
from fedhealth.protocol.messages import STATISTICS, UPDATE
from fedhealth.types import State
from strategies.aggregation.base import Aggregate, Ask, Round
from strategies.aggregation.checks import check_norm, check_statistics, check_update

SCALE = 2.0**32  # resolution 2.3e-10 of weight x update
_LIMIT = 2.0**62  # what the sum of all sites may reach, in units of 1 / SCALE
_CHUNK = 1 << 18  # values converted at once: bounds the temporary memory


class WeightedMean:
    """Sum weight x update over the sites, tower by tower; divide once at the end.

    A tower is weighted by the rows that had its modality: a site without notes does not dilute the text tower.

    Args:
        most: the largest L2 norm of an update; None for no bound.

    """

    def __init__(self, most: float | None = None) -> None:
        self.most = most

    last_exchange = 0

    def start(self, run: str, digest: str, folder: Path) -> None:
        """Begin a run: there is nothing to remember."""

    def admit(self, site: str, content: RecordDict) -> None:
        """Take a site in: there is nothing to check."""

    def resume(self, attempt: Round, settled: int) -> None:
        """Return None: a sum in the open is not kept."""

    def open(self, attempt: Round) -> None:
        """Begin a round."""
        self._sums = {name: np.zeros(array.shape, np.int64) for name, array in attempt.expected.items()}
        self._weights, self._expected = attempt.weights, attempt.statistics
        self._ceiling = _LIMIT / max(1, len(attempt.weights))
        self._statistics: dict[str, np.ndarray] = {}
        self._sites: list[str] = []

    def add(self, site: str, content: RecordDict) -> dict[str, np.ndarray]:
        """Fold one site's update and statistics."""
        update = unpack(arrays_in(content, UPDATE)) if UPDATE in content else {}
        statistics = unpack(arrays_in(content, STATISTICS)) if STATISTICS in content else {}
        self._check(site, update)
        check_statistics(site, statistics, self._expected)
        for name, values in update.items():
            if weight := self._weight(site, name):
                _add_scaled(self._sums[name].reshape(-1), values.reshape(-1), weight * SCALE)
        for name, vector in statistics.items():
            self._statistics[name] = self._statistics.get(name, np.zeros(vector.shape, np.int64)) + vector
        self._sites.append(site)
        return statistics

    def close(self, ask: Ask) -> Aggregate:
        """Divide each sum by the weight of those who answered."""
        if not self._sites:
            raise FederationError("No site answered.", "See the reasons above and the sites' own logs.")
        update: State = {}
        for name in list(self._sums):
            total = sum(self._weight(site, name) for site in self._sites)
            summed = self._sums.pop(name)
            if total:
                update[name] = _divided(summed, total * SCALE)
        return Aggregate(update, self._statistics, tuple(sorted(self._sites)))

    def _weight(self, site: str, name: str) -> float:
        return self._weights[site].get(tower_of(name), 0.0)

    def _check(self, site: str, update: State) -> None:
        """Refuse a whole answer before any part of it is added."""
        if site not in self._weights or site in self._sites:
            raise FederationError(f"Site {site!r} answered twice or was not asked.", "Restart the site.")
        check_update(site, update, self._sums)
        if self.most is not None:
            check_norm(site, update, self.most)
        for name, values in update.items():
            peak = max(abs(float(values.max(initial=0.0))), abs(float(values.min(initial=0.0))))
            if not peak * self._weight(site, name) * SCALE < self._ceiling:
                raise FederationError(
                    f"Site {site!r} sent {name} with values up to {peak:g}.",
                    "Lower the learning rate; its training may have diverged.",
                )


def _divided(summed: np.ndarray, divisor: float) -> np.ndarray:
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
