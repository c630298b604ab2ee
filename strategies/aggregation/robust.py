"""Aggregations that a few false updates cannot steer; they need each site's own update, so no secure aggregation.

Coordinate-wise median and trimmed mean: Yin et al., "Byzantine-Robust Distributed Learning", ICML 2018. Krum and
multi-Krum: Blanchard et al., "Machine Learning with Adversaries", NeurIPS 2017. Every tower is aggregated on its own,
over the sites that train it; sites count alike, for a weight could be a lie too. Statistics are summed as ever. The
rules are Flower's functions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from flwr.app import RecordDict
from flwr.server.strategy.aggregate import aggregate_krum, aggregate_median, aggregate_trimmed_avg

from fedhealth.errors import FederationError
from fedhealth.models.modality_keys import tower_of
from fedhealth.protocol.array_codec import arrays_in, unpack
from fedhealth.protocol.messages import STATISTICS, UPDATE
from fedhealth.types import State
from strategies.aggregation.base import Aggregate, Ask, Round
from strategies.aggregation.checks import check_norm, check_statistics, check_update

Rule = Callable[[list[np.ndarray]], np.ndarray]
"""Turns the sites' vectors, each float32 [D], into one."""


def median(vectors: list[np.ndarray]) -> np.ndarray:
    """Return the median of every coordinate."""
    return aggregate_median(_alike(vectors))[0]


def trimmed_mean(vectors: list[np.ndarray], share: float = 0.25) -> np.ndarray:
    """Return the mean of every coordinate without a share (rounded down to whole sites) at each end."""
    return aggregate_trimmed_avg(_alike(vectors), share)[0]


def krum(vectors: list[np.ndarray], faulty: int = 1, keep: int = 1) -> np.ndarray:
    """Return the mean of the `keep` updates nearest to their neighbours; 1 is Krum, more is multi-Krum.

    Args:
        vectors: one a site.
        faulty: f, the most sites that may be false; each is judged by its n - f - 2 nearest neighbours.
        keep: how many of the best are averaged.

    """
    return aggregate_krum(_alike(vectors), faulty, min(keep, len(vectors)))[0]


def _alike(vectors: list[np.ndarray]) -> list[tuple[list[np.ndarray], int]]:
    """Return the vectors as Flower's functions take them, each of the same weight."""
    return [([vector], 1) for vector in vectors]


class Robust:
    """Keeps every site's update of a round and applies a rule tower by tower.

    Args:
        rule: the rule.
        most: the largest L2 norm of an update; None for no bound.

    """

    last_exchange = 0

    def __init__(self, rule: Rule, most: float | None = None) -> None:
        self.rule, self.most = rule, most

    def start(self, run: str, digest: str, folder: Path) -> None:
        """Begin a run: there is nothing to remember."""

    def admit(self, site: str, content: RecordDict) -> None:
        """Take a site in: there is nothing to check."""

    def resume(self, attempt: Round, settled: int) -> None:
        """Return None: nothing is kept."""

    def open(self, attempt: Round) -> None:
        """Begin a round."""
        self._attempt = attempt
        self._updates: dict[str, State] = {}
        self._statistics: dict[str, np.ndarray] = {}

    def add(self, site: str, content: RecordDict) -> dict[str, np.ndarray]:
        """Keep one site's update."""
        update = unpack(arrays_in(content, UPDATE)) if UPDATE in content else {}
        if site not in self._attempt.weights or site in self._updates:
            raise FederationError(f"Site {site!r} answered twice or was not asked.", "Restart the site.")
        check_update(site, update, self._attempt.expected)
        if self.most is not None:
            check_norm(site, update, self.most)
        statistics = unpack(arrays_in(content, STATISTICS)) if STATISTICS in content else {}
        check_statistics(site, statistics, self._attempt.statistics)
        for name, vector in statistics.items():
            self._statistics[name] = self._statistics.get(name, np.zeros(vector.shape, np.int64)) + vector
        self._updates[site] = update
        return statistics

    def close(self, ask: Ask) -> Aggregate:
        """Apply the rule to every tower."""
        if not self._updates:
            raise FederationError("No site answered.", "See the reasons above and the sites' own logs.")
        update: State = {}
        for tower in sorted({tower_of(name) for name in self._attempt.expected}):
            names = [name for name in sorted(self._attempt.expected) if tower_of(name) == tower]
            owners = [site for site in sorted(self._updates) if self._attempt.weights[site].get(tower, 0.0)]
            if owners:
                update |= self._apply(names, owners)
        return Aggregate(update, self._statistics, tuple(sorted(self._updates)))

    def _apply(self, names: Sequence[str], owners: Sequence[str]) -> State:
        vectors = [np.concatenate([self._updates[site][name].ravel() for name in names]) for site in owners]
        found, at = np.asarray(self.rule(vectors), np.float32), 0
        arrays: State = {}
        for name in names:
            shape = self._attempt.expected[name].shape
            size = int(np.prod(shape))
            arrays[name], at = found[at : at + size].reshape(shape), at + size
        return arrays
