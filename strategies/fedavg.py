"""The federated strategy: a cohort of sites x an aggregation x a server optimizer, and the round loop around them.

It is a `flwr.serverapp.strategy.Strategy`, so a stock Flower ServerApp can start it too, but it owns its loop
(`start`): each reply is folded as it arrives and forgotten. A site evaluates the incoming model before it trains, so
a round is one exchange; the last model gets one `EVALUATE`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from fedhealth.errors import FederationError
from fedhealth.models.modality_keys import METHOD, tower_of
from fedhealth.protocol.array_codec import pack, plain, unpack
from fedhealth.protocol.messages import DESCRIBE, EVALUATE, TRAIN
from fedhealth.statistics.heterogeneity import Table, divergence
from fedhealth.types import State
from strategies.aggregation.base import Aggregate, Aggregation, Shapes
from strategies.checkpoint import Checkpoints, Snapshot
from strategies.deadlines import Deadlines
from strategies.messaging import Event, Reply
from strategies.participants import Cohort
from strategies.round_driver import Identity, Question, Session, messages_to, question_of
from strategies.server_optimizers.optimizers import ServerOptimizer
from strategies.server_state.base import Companion, Mean
from strategies.statistics import metrics, summary

__all__ = ["FederatedStrategy", "Identity"]


class FederatedStrategy(Strategy):
    """Federated averaging, and whatever else is composed from other parts.

    Args:
        identity: of the run.
        cohort: who must take part.
        aggregation: how answers become one update.
        server_optimizer: how the update becomes the next model.
        companion: the lead's half of a two-sided method; its arrays travel beside the model's.
        extra: shapes of those arrays.
        statistics: by message type, the shape of every vector of statistics a site answers with.
        attempts: how often a round is tried when too few sites answer for a secure sum.
        deadlines: how long each site may take.
        checkpoints: where completed rounds are kept; None keeps none.
        tables: what the sites say of how they differ, by the name of the statistic.
        event: called for everything worth showing.

    Attributes:
        final: summed statistics of the final model, after `start`.

    """

    def __init__(
        self,
        identity: Identity,
        cohort: Cohort,
        aggregation: Aggregation,
        server_optimizer: ServerOptimizer,
        companion: Companion | None = None,
        extra: Shapes | None = None,
        statistics: Mapping[str, Shapes] | None = None,
        attempts: int = 3,
        deadlines: Deadlines | None = None,
        checkpoints: Checkpoints | None = None,
        tables: Mapping[str, Table] | None = None,
        event: Event = lambda kind, **fields: None,
    ) -> None:
        self.server_optimizer = server_optimizer
        self.companion = companion or Mean()
        self.extra = extra or {}
        self.statistics = statistics or {}
        self.checkpoints = checkpoints
        self.tables = tables or {}
        self.event = event
        self.session = Session(identity, cohort, aggregation, attempts, deadlines or Deadlines(), event)
        self.final: dict[str, np.ndarray] = {}
        self._arrays: State = {}
        self._told: Mapping[str, object] = {}

    def summary(self) -> None:
        """Say what is composed, as an event."""
        parts = (self.session.aggregation, self.server_optimizer)
        names = [type(part).__name__ for part in parts]
        self.event("strategy", parts=names, sites=list(self.session.cohort.sites))

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
    ) -> Result:
        """Run the federation; see Flower's `Strategy.start` for the arguments (`timeout` is per round, in seconds).

        Goes on after the last checkpoint where there is one.

        Raises:
            FederationError: too few sites accepted or answered.

        """
        self.summary()
        state = self._restored() or self._first(unpack(initial_arrays))
        self.session.join(grid, timeout)
        self.event("started", rounds=num_rounds, completed=state.round)
        result = Result(arrays=initial_arrays)
        for number in range(state.round + 1, num_rounds + 1):
            aggregate = self._train(grid, number, state.arrays, train_config, timeout)
            state = self._completed(state, number, aggregate)
            result.train_metrics_clientapp[number] = metrics(aggregate.statistics)
            if evaluate_fn and (scored := evaluate_fn(number, plain(_model(state.arrays)))):
                result.evaluate_metrics_serverapp[number] = scored
        self.final = self._evaluate(grid, num_rounds, state.arrays, evaluate_config, timeout)
        result.evaluate_metrics_clientapp[num_rounds] = metrics(self.final)
        result.arrays = plain(_model(state.arrays))
        return result

    def describe(self, grid: Grid, timeout: float) -> dict[str, np.ndarray]:
        """Return the sums of what the sites tell of their patients; nothing is trained.

        Raises:
            FederationError: too few sites accepted or answered.

        """
        self.session.join(grid, timeout)
        self.event("describing", sites=sorted(self.session.members.nodes))
        question = Question(DESCRIBE, 0, {}, {}, self.statistics[DESCRIBE])
        return self.session.ask(grid, question, timeout).statistics

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return a round's training messages (Flower's interface, for loops other than `start`)."""
        if not self.session.members.nodes:
            self.session.join(grid, timeout=3600)
        if not self._arrays:
            self._arrays = self._begin({})
        self._arrays |= unpack(arrays)
        question = self._training(server_round, self._arrays, config)
        directive = self.session.directive(server_round)
        secret = self.session.aggregation.open(self.session.attempt(question, directive))
        content = question_of(directive, pack(self._arrays), config, secret)
        return messages_to(self.session.members, content, TRAIN, str(server_round))

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the next shared arrays from a round's replies (Flower's interface)."""
        for message in replies:
            self.session.fold(Reply(message.metadata.src_node_id, message, 0.0, 0, 0), server_round)
        aggregate = self.session.aggregation.close(lambda kind, questions: iter(()))
        self._arrays = self._step(self._arrays, aggregate)
        return plain(_model(self._arrays)), metrics(aggregate.statistics)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return no message: a site evaluates the incoming model when it is asked to train."""
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Return nothing: see `configure_evaluate`."""
        return None

    def _begin(self, arrays: State) -> State:
        """Return the model's arrays and the method's own beside them."""
        return arrays | {METHOD + name: value for name, value in self.companion.begin(self.extra).items()}

    def _first(self, arrays: State) -> Snapshot:
        return Snapshot(self.session.identity.digest, 0, 0, self._begin(arrays))

    def _restored(self) -> Snapshot | None:
        """Return the last checkpoint, and let the server optimizer remember what it knew then."""
        state = self.checkpoints.latest() if self.checkpoints else None
        if state is None:
            return None
        if state.digest != self.session.identity.digest:
            raise FederationError(
                "The checkpoints belong to another configuration.", "Resume with the run's own configuration."
            )
        self.server_optimizer.memory = state.optimizer
        self.session.exchange = self.session.settled = state.exchange
        self.event("resumed", round=state.round)
        return state

    def _completed(self, before: Snapshot, number: int, aggregate: Aggregate) -> Snapshot:
        """Return the state after a round, on the disk before anything follows from it."""
        scores = dict(before.scores)
        auroc = summary(aggregate.statistics).get("validation", {}).get("auroc")
        if auroc is not None:
            scores[number - 1] = auroc  # sites score the model that comes in
        arrays = self._step(before.arrays, aggregate)
        state = Snapshot(
            before.digest, number, self.session.exchange, arrays, dict(self.server_optimizer.memory), scores
        )
        if self.checkpoints:
            try:
                self.checkpoints.save(state)
            except OSError as fault:
                self.event("checkpoint_failed", round=number, reason=str(fault))
        self.session.settled = state.exchange
        return state

    def _step(self, arrays: State, aggregate: Aggregate) -> State:
        """Return the next arrays: the model's by the server optimizer, the method's by its companion."""
        model = self.server_optimizer.step(_model(arrays), _model(aggregate.update))
        changed = {name: change * self._share(name, aggregate.sites) for name, change in aggregate.update.items()}
        extra = self.companion.step(_method(arrays), _method(changed), aggregate.statistics)
        return model | {METHOD + name: value for name, value in extra.items()}

    def _share(self, name: str, answered: Iterable[str]) -> np.float32:
        """Return which part of the cohort's weight answered, for the tower of an array."""
        weights = {site: towers.get(tower_of(name), 0.0) for site, towers in self.session.members.weights.items()}
        return np.float32(sum(weights.get(site, 0.0) for site in answered) / (sum(weights.values()) or 1.0))

    def _training(self, number: int, arrays: State, config: ConfigRecord | None) -> Question:
        return Question(TRAIN, number, arrays, arrays, self.statistics.get(TRAIN, {}), config)

    def _train(self, grid: Grid, number: int, arrays: State, config: ConfigRecord | None, timeout: float) -> Aggregate:
        started = time.monotonic()
        self.session.rejoin(grid, timeout)
        asked = sorted(self.session.members.nodes)
        self.event("round_started", round=number, sites=asked)
        aggregate = self.session.ask(grid, self._training(number, arrays, config), timeout)
        seconds = round(time.monotonic() - started, 3)
        told = {"pooled": summary(aggregate.statistics), "divergence": self._divergence(aggregate)}
        self.event("round_completed", round=number, seconds=seconds, sites=list(aggregate.sites), **told)
        self._tell_differences(aggregate.statistics)
        return aggregate

    def _divergence(self, aggregate: Aggregate) -> float | None:
        found = divergence(aggregate.statistics, aggregate.update, len(aggregate.sites))
        return None if found is None else round(found, 4)

    def _tell_differences(self, statistics: Mapping[str, np.ndarray]) -> None:
        """Say once how the sites differ, where they may tell."""
        counted = {name: statistics[name] for name in self.tables if name in statistics and statistics[name].any()}
        tables = {
            self.tables[name].name: {
                "rows": self.tables[name].rows,
                "edges": self.tables[name].edges,
                "counts": counts.tolist(),
            }
            for name, counts in counted.items()
        }
        if tables and tables != self._told:
            self.event("heterogeneity", tables=tables)
            self._told = tables

    def _evaluate(
        self, grid: Grid, number: int, arrays: State, config: ConfigRecord | None, timeout: float
    ) -> dict[str, np.ndarray]:
        """Return the summed statistics of the final model on every site's validation and test rows."""
        self.session.rejoin(grid, timeout)
        self.event("evaluation_started")
        question = Question(EVALUATE, number, arrays, {}, self.statistics.get(EVALUATE, {}), config)
        final = self.session.ask(grid, question, timeout)
        self.event("evaluation_completed", sites=list(final.sites), pooled=summary(final.statistics))
        return final.statistics


def _model(arrays: State) -> State:
    return {name: array for name, array in arrays.items() if not name.startswith(METHOD)}


def _method(arrays: State) -> State:
    return {name.removeprefix(METHOD): array for name, array in arrays.items() if name.startswith(METHOD)}
