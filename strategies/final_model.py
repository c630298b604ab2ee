"""The end of a run: evaluate the last model, and that of the best round if it is another one; choose what is exported.

The last model gets one `EVALUATE`. The validation scores of the rounds before are known by then, since every site
evaluates the incoming model of a round. If one of them is better, its model gets a second `EVALUATE`, under the history
of its round: the sites compare its arrays with those that the round's link names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from flwr.app import ConfigRecord
from flwr.serverapp import Grid

from fedhealth.errors import FederationError
from fedhealth.protocol.messages import EVALUATE
from strategies.aggregation.base import Shapes
from strategies.checkpoint import CheckpointStore, RoundCheckpoint
from strategies.messaging import EventCallback
from strategies.round_driver import RoundDriver
from strategies.round_request import RoundRequest
from strategies.selection import RoundSelection
from strategies.statistics import summarize_statistics

Summed = dict[str, np.ndarray]


@dataclass(frozen=True)
class FinalModel:
    """Choose and evaluate the model that a run exports.

    Attributes:
        driver: of the run's exchanges.
        selection: the rule.
        reason: why the rule is not the configured one; empty if it is.
        checkpoints: of completed rounds; None if there are none, then the last model is exported.
        statistics: shapes of a site's reply.
        event: called for every event.
        sensitivity: of the tables among the statistics whose noise the sites share; 0 if there are none.

    """

    driver: RoundDriver
    selection: RoundSelection
    reason: str
    checkpoints: CheckpointStore | None
    statistics: Shapes
    event: EventCallback
    sensitivity: float = 0.0

    def choose_model(
        self, grid: Grid, state: RoundCheckpoint, config: ConfigRecord | None, timeout: float
    ) -> tuple[RoundCheckpoint, Summed]:
        """Return the state of the exported round, and the summed statistics of its model.

        Args:
            grid: Flower's.
            state: after the last round.
            config: an additional record for the sites.
            timeout: of an exchange, in seconds.

        """
        summed = self._evaluate(grid, state, config, timeout)
        scores = state.scores | read_validation_score(state.round, summed)
        number = self.selection.choose_round(state.round, scores)
        reason = self.reason or self.selection.explain_missing_scores(scores)
        if number != state.round:
            try:
                state, summed = self._evaluate_earlier(grid, number, config, timeout)
            except FederationError as fault:
                reason = f"Round {number} had a better score, but could not be evaluated again: {fault.problem}"
        self.event("selected", round=state.round, score=scores.get(state.round), reason=reason)
        return state, summed

    def _evaluate_earlier(
        self, grid: Grid, number: int, config: ConfigRecord | None, timeout: float
    ) -> tuple[RoundCheckpoint, Summed]:
        state = self.checkpoints.load_round(number) if self.checkpoints else None
        if state is None:
            raise FederationError("its checkpoint is not on the disk.", "Set strategy.select=last.")
        self.driver.aggregation.look_back(state.history)
        return state, self._evaluate(grid, state, config, timeout)

    def _evaluate(self, grid: Grid, state: RoundCheckpoint, config: ConfigRecord | None, timeout: float) -> Summed:
        """Return the summed statistics of a round's model on every site's validation and test rows."""
        self.driver.rejoin(grid, timeout)
        self.event("evaluation_started", round=state.round)
        request = RoundRequest(EVALUATE, state.round, state.arrays, {}, self.statistics, config, self.sensitivity)
        found = self.driver.run_exchange(grid, request, timeout)
        self.event("evaluation_completed", sites=list(found.sites), pooled=summarize_statistics(found.statistics))
        return found.statistics


def read_validation_score(number: int, summed: Mapping[str, np.ndarray]) -> dict[int, float]:
    """Return {round: pooled validation AUROC}, empty where it is not defined."""
    auroc = summarize_statistics(summed).get("validation", {}).get("auroc")
    return {} if auroc is None else {number: auroc}
