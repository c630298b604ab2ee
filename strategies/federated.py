"""The federated strategy: a cohort of sites x an aggregation x a server optimizer, and the round loop around them.

It is a `flwr.serverapp.strategy.Strategy`, so a stock Flower ServerApp can start it too, but it owns its loop
(`start`): each reply is folded as it arrives and forgotten. A site evaluates the incoming model before it trains, so
a round is one exchange; the last model gets one `EVALUATE`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from fedhealth.errors import FederationError, FedhealthError
from fedhealth.training.state import State
from fedhealth.training.towers import METHOD, tower_of
from fedhealth.wire import DIRECTIVE, EVALUATE, GLOBAL, SECAGG, TRAIN, Directive, pack, unpack
from strategies.aggregation.contract import Aggregate, Aggregation, AttemptFailedError, Round
from strategies.cohort import Cohort, Members, gather
from strategies.companion import Companion, Mean, Shapes
from strategies.rounds import Event, Reply, exchange
from strategies.server_optimizer import ServerOptimizer
from strategies.statistics import metrics, summary


@dataclass(frozen=True)
class Identity:
    """What every directive of a run repeats: our run id and the configuration's digest."""

    run: str
    digest: str


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
        statistics: Mapping[str, Mapping[str, tuple[int, ...]]] | None = None,
        attempts: int = 3,
        event: Event = lambda kind, **fields: None,
    ) -> None:
        self.identity = identity
        self.cohort = cohort
        self.aggregation = aggregation
        self.server_optimizer = server_optimizer
        self.companion = companion or Mean()
        self.extra = extra or {}
        self.statistics = statistics or {}
        self.attempts = attempts
        self.event = event
        self.final: dict[str, np.ndarray] = {}
        self._members = Members()
        self._exchange = 0
        self._arrays: State = {}

    def summary(self) -> None:
        """Say what is composed, as an event."""
        parts = (self.aggregation, self.server_optimizer)
        self.event("strategy", parts=[type(part).__name__ for part in parts], sites=list(self.cohort.sites))

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

        Raises:
            FederationError: too few sites accepted or answered.

        """
        self.summary()
        self._join(grid, timeout)
        self.event("started", rounds=num_rounds)
        arrays = self._begin(unpack(initial_arrays))
        result = Result(arrays=initial_arrays)
        for number in range(1, num_rounds + 1):
            aggregate = self._train(grid, number, arrays, train_config, timeout)
            arrays = self._step(arrays, aggregate)
            result.train_metrics_clientapp[number] = metrics(aggregate.statistics)
            if evaluate_fn and (scored := evaluate_fn(number, pack(_model(arrays)))):
                result.evaluate_metrics_serverapp[number] = scored
        self.final = self._evaluate(grid, num_rounds, arrays, evaluate_config, timeout)
        result.evaluate_metrics_clientapp[num_rounds] = metrics(self.final)
        result.arrays = pack(_model(arrays))
        return result

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return a round's training messages (Flower's interface, for loops other than `start`)."""
        if not self._members.nodes:
            self._join(grid, timeout=3600)
        if not self._arrays:
            self._arrays = self._begin({})
        self._arrays |= unpack(arrays)
        directive = self._directive(server_round)
        secret = self.aggregation.open(self._attempt(TRAIN, directive, self._arrays, self._arrays))
        question = _question(directive, pack(self._arrays), config, secret)
        return [Message(question, node, TRAIN, group_id=str(server_round)) for node in self._members.nodes.values()]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the next shared arrays from a round's replies (Flower's interface)."""
        for message in replies:
            self._fold(Reply(message.metadata.src_node_id, message, 0.0, 0, 0), server_round)
        aggregate = self.aggregation.close(lambda kind, questions: iter(()))
        self._arrays = self._step(self._arrays, aggregate)
        return pack(_model(self._arrays)), metrics(aggregate.statistics)

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

    def _step(self, arrays: State, aggregate: Aggregate) -> State:
        """Return the next arrays: the model's by the server optimizer, the method's by its companion."""
        model = self.server_optimizer.step(_model(arrays), _model(aggregate.update))
        changed = {name: change * self._share(name, aggregate.sites) for name, change in aggregate.update.items()}
        extra = self.companion.step(_method(arrays), _method(changed), aggregate.statistics)
        return model | {METHOD + name: value for name, value in extra.items()}

    def _share(self, name: str, answered: Iterable[str]) -> np.float32:
        """Return which part of the cohort's weight answered, for the tower of an array."""
        weights = {site: of_tower.get(tower_of(name), 0.0) for site, of_tower in self._members.weights.items()}
        return np.float32(sum(weights[site] for site in answered) / (sum(weights.values()) or 1.0))

    def _join(self, grid: Grid, timeout: float) -> None:
        self._members = gather(grid, self.cohort, self.aggregation, _question(self._directive(0)), self.event, timeout)

    def _train(self, grid: Grid, number: int, arrays: State, config: ConfigRecord | None, timeout: float) -> Aggregate:
        started = time.monotonic()
        directive = self._directive(number)
        self.event("round_started", round=number, sites=list(directive.cohort))
        aggregate = self._aggregate(grid, TRAIN, directive, arrays, arrays, config, timeout)
        needed = self.cohort.answers_needed(len(directive.cohort))
        if len(aggregate.sites) < needed:
            answered = f"{len(aggregate.sites)} of {len(directive.cohort)} sites"
            raise FederationError(
                f"Round {number}: {answered} answered, {needed} are needed.",
                "See the sites' own logs; lower strategy.quorum to go on without them.",
            )
        seconds = round(time.monotonic() - started, 3)
        pooled = summary(aggregate.statistics)
        self.event("round_completed", round=number, seconds=seconds, sites=list(aggregate.sites), pooled=pooled)
        return aggregate

    def _evaluate(
        self, grid: Grid, number: int, arrays: State, config: ConfigRecord | None, timeout: float
    ) -> dict[str, np.ndarray]:
        """Return the summed statistics of the final model on every site's validation and test rows."""
        self.event("evaluation_started")
        directive = self._directive(number)
        final = self._aggregate(grid, EVALUATE, directive, arrays, {}, config, timeout)
        self.event("evaluation_completed", sites=list(final.sites), pooled=summary(final.statistics))
        return final.statistics

    def _aggregate(
        self,
        grid: Grid,
        kind: str,
        directive: Directive,
        arrays: State,
        expected: State,
        config: ConfigRecord | None,
        timeout: float,
    ) -> Aggregate:
        """Send `arrays` to the cohort and fold the answers; try again while nothing was opened and tries are left."""
        packed = pack(arrays)
        for attempt in range(self.attempts):
            tried = replace(directive, attempt=attempt)
            secret = self.aggregation.open(self._attempt(kind, tried, arrays, expected))
            self._collect(grid, kind, tried, _question(tried, packed, config, secret), timeout)
            try:
                return self.aggregation.close(partial(self._ask, grid, directive, timeout))
            except AttemptFailedError as fault:
                self.event("attempt_failed", round=directive.round, attempt=attempt, reason=fault.problem)
                failed = fault
        raise failed

    def _attempt(self, kind: str, directive: Directive, arrays: State, expected: State) -> Round:
        return Round(kind, directive, arrays, expected, self.statistics.get(kind, {}), self._members.weights)

    def _collect(self, grid: Grid, kind: str, directive: Directive, question: RecordDict, timeout: float) -> None:
        """Ask the whole cohort and fold the answers as they come; name the silent."""
        silent = {self._members.nodes[site]: site for site in directive.cohort}
        for reply in exchange(grid, kind, dict.fromkeys(silent, question), str(directive.round), timeout):
            del silent[reply.node]
            self._fold(reply, directive.round)
        for site in silent.values():
            self.event("site_failed", round=directive.round, site=site, reason="no answer before the deadline")

    def _ask(
        self, grid: Grid, directive: Directive, timeout: float, kind: str, questions: Mapping[str, RecordDict]
    ) -> Iterator[tuple[str, RecordDict]]:
        """Ask some sites one more thing within a round."""
        record = directive.record()
        asked = {
            self._members.nodes[site]: RecordDict({DIRECTIVE: record, **content}) for site, content in questions.items()
        }
        for reply in exchange(grid, kind, asked, str(directive.round), timeout):
            site = self._members.name_of(reply.node)
            if reply.message.has_content():
                yield site, reply.message.content
            else:
                reason = reply.message.error.reason
                self.event("site_refused", round=directive.round, site=site, question=kind, reason=reason)

    def _fold(self, reply: Reply, number: int) -> None:
        """Fold one answer; a site that failed or does not fit is left out of the round and named."""
        site = self._members.name_of(reply.node)
        if reply.message.has_error():
            reason = f"{reply.message.error.reason} (see the site's own log)"
            self.event("site_failed", round=number, site=site, reason=reason)
            return
        try:
            own = self.aggregation.add(site, reply.message.content)
        except FedhealthError as fault:
            self.event("site_failed", round=number, site=site, reason=fault.problem)
            return
        costs = {"seconds": round(reply.seconds, 3), "sent": reply.sent, "received": reply.received}
        self.event("site_answered", round=number, site=site, **costs, own=summary(own) if own else None)

    def _directive(self, number: int) -> Directive:
        self._exchange += 1
        cohort = tuple(sorted(self._members.nodes))
        return Directive(self.identity.run, self.identity.digest, number, self._exchange, 0, cohort)


def _model(arrays: State) -> State:
    return {name: array for name, array in arrays.items() if not name.startswith(METHOD)}


def _method(arrays: State) -> State:
    return {name.removeprefix(METHOD): array for name, array in arrays.items() if name.startswith(METHOD)}


def _question(
    directive: Directive,
    arrays: ArrayRecord | None = None,
    config: ConfigRecord | None = None,
    secret: ConfigRecord | None = None,
) -> RecordDict:
    records = {DIRECTIVE: directive.record(), GLOBAL: arrays, "config": config or None, SECAGG: secret}
    return RecordDict({name: record for name, record in records.items() if record is not None})
