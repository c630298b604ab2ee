"""Byzantine-robust aggregation; the rules need each site's own update and so exclude secure aggregation.

Coordinate-wise median and trimmed mean: Yin et al., "Byzantine-Robust Distributed Learning", ICML 2018. Krum and
multi-Krum: Blanchard et al., "Machine Learning with Adversaries", NeurIPS 2017. Every tower is aggregated separately
over the sites that train it. All sites have the same weight, because a reported weight may be false as well. Statistics
are summed as in the weighted mean. The rules are Flower's functions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from flwr.app import RecordDict

from fedhealth.errors import FederationError
from fedhealth.flower.server.robust_rules import compute_krum, compute_median, compute_trimmed_mean
from fedhealth.models.modality_keys import get_tower
from fedhealth.types import State
from strategies.aggregation.base import Aggregate, RoundAttempt, SendFollowUp
from strategies.aggregation.checks import (
    add_statistics,
    apply_rule,
    check_norm,
    check_statistics,
    check_update,
    read_reply,
)
from strategies.aggregation.stateless import StatelessAggregation

Rule = Callable[[list[np.ndarray]], np.ndarray]
"""Aggregates the sites' vectors, each float32 [D], into one."""


def coordinate_median(vectors: list[np.ndarray]) -> np.ndarray:
    """Return the median of every coordinate, float32 [D], from the sites' vectors, float32 [D] each."""
    return compute_median(vectors)


def trimmed_mean(vectors: list[np.ndarray], share: float = 0.25) -> np.ndarray:
    """Return the mean of every coordinate, float32 [D], without a share (rounded down to whole sites) at each end."""
    return compute_trimmed_mean(vectors, share)


def krum(vectors: list[np.ndarray], faulty: int = 1, keep: int = 1) -> np.ndarray:
    """Return the mean of the `keep` updates nearest to their neighbours; 1 is Krum, more is multi-Krum.

    Args:
        vectors: one for each site, float32 [D].
        faulty: f, the largest number of malicious sites; each update is scored by its n - f - 2 nearest neighbours.
        keep: number of best updates to average.

    """
    return compute_krum(vectors, faulty, min(keep, len(vectors)))


class RobustAggregation(StatelessAggregation):
    """Collect every site's update of a round (float32 by name) and apply a rule to each tower.

    Args:
        rule: the rule.
        max_norm: the largest allowed L2 norm of an update; None for no limit.

    Raises:
        FederationError: from `add`, for a reply that is invalid; from `close`, if no site replied.

    """

    def __init__(self, rule: Rule, max_norm: float | None = None) -> None:
        self.rule, self.max_norm = rule, max_norm

    def open(self, attempt: RoundAttempt) -> None:
        """Begin a round."""
        self._attempt = attempt
        self._updates: dict[str, State] = {}
        self._statistics: dict[str, np.ndarray] = {}

    def add(self, site: str, content: RecordDict) -> dict[str, np.ndarray]:
        """Store one site's update."""
        update, statistics = read_reply(content)
        if site not in self._attempt.weights or site in self._updates:
            raise FederationError(f"Site {site!r} replied twice or was not requested.", "Restart the site.")
        check_update(site, update, self._attempt.expected)
        if self.max_norm is not None:
            check_norm(site, update, self.max_norm)
        check_statistics(site, statistics, self._attempt.statistics)
        add_statistics(self._statistics, statistics)
        self._updates[site] = update
        return statistics

    def close(self, send_follow_up: SendFollowUp) -> Aggregate:
        """Apply the rule to every tower."""
        if not self._updates:
            raise FederationError("No site replied.", "See the reasons above and the sites' own logs.")
        update: State = {}
        for tower in sorted({get_tower(name) for name in self._attempt.expected}):
            names = [name for name in sorted(self._attempt.expected) if get_tower(name) == tower]
            owners = [site for site in sorted(self._updates) if self._attempt.weights[site].get(tower, 0.0)]
            if owners:
                update |= self._apply_rule(names, owners)
        return Aggregate(update, self._statistics, tuple(sorted(self._updates)))

    def _apply_rule(self, names: Sequence[str], owners: Sequence[str]) -> State:
        vectors = [np.concatenate([self._updates[site][name].ravel() for name in names]) for site in owners]
        found, at = apply_rule(self.rule, vectors), 0
        arrays: State = {}
        for name in names:
            shape = self._attempt.expected[name].shape
            size = int(np.prod(shape))
            arrays[name], at = found[at : at + size].reshape(shape), at + size
        return arrays
