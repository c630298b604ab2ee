"""Federated averaging: participating sites x an aggregation x a server optimizer, and the round loop around them.

The class is a `flwr.serverapp.strategy.Strategy`, so a stock Flower ServerApp can also start it, but it has its own
round loop (`start`): each reply is aggregated as it arrives and then discarded. A site evaluates the incoming model
before it trains, so a round is one exchange; the end of the run is in `strategies.final_model`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from fedhealth.errors import FederationError
from fedhealth.models.modality_keys import METHOD, SHARED, get_tower
from fedhealth.protocol.array_codec import pack_arrays, to_array_record, unpack_arrays
from fedhealth.protocol.messages import DESCRIBE, EVALUATE, TRAIN
from fedhealth.statistics.heterogeneity import HeterogeneityTable, compute_divergence
from fedhealth.types import State
from fedhealth.utils.guarded_part import get_part, guard_part
from strategies.aggregation.base import Aggregate, Aggregation, Shapes
from strategies.aggregation.checks import check_result
from strategies.checkpoint import CheckpointStore, RoundCheckpoint
from strategies.deadlines import ReplyDeadlines
from strategies.final_model import FinalModel, read_validation_score
from strategies.messaging import EventCallback, Reply
from strategies.participants import Participation
from strategies.round_average import RoundAverage
from strategies.round_driver import RoundDriver
from strategies.round_request import RoundRequest, RunIdentity, build_messages, build_request
from strategies.selection import RoundSelection
from strategies.server_optimizers.base import ServerOptimizer, is_running_statistic
from strategies.server_optimizers.checks import step_checked
from strategies.server_state.base import ServerMethodState
from strategies.server_state.mean import MeanAccumulator
from strategies.statistics import build_metric_record, summarize_statistics


class FedAvg(Strategy):
    """The strategy of this product; other methods than FedAvg are composed by exchanging its parts.

    Args:
        identity: of the run.
        participation: which sites must take part.
        aggregation: combines the replies into one update.
        server_optimizer: computes the next model from the update.
        server_state: the lead's part of a two-sided method; its arrays are sent together with the model.
        extra: shapes of those arrays.
        sends_gradients: whether the sites send gradients, each a mean over all that a site trains on.
        statistics: by message type, the shape of every vector of statistics in a site's reply.
        sensitivities: by message type, of the statistics whose noise the sites share.
        attempts: number of attempts at a round when too few sites reply.
        deadlines: of each site's replies.
        checkpoints: store of completed rounds; None stores none.
        selection: which round is exported, and when training ends early.
        selection_reason: why that is not the configured rule; empty if it is.
        average: of the models of all rounds, which the last round then leaves.
        tables: heterogeneity tables by the name of their statistic.
        event: called for every event of the run.

    Attributes:
        final: summed statistics of the final model, after `start`.

    """

    def __init__(
        self,
        identity: RunIdentity,
        participation: Participation,
        aggregation: Aggregation,
        server_optimizer: ServerOptimizer,
        server_state: ServerMethodState | None = None,
        extra: Shapes | None = None,
        sends_gradients: bool = False,
        statistics: Mapping[str, Shapes] | None = None,
        sensitivities: Mapping[str, float] | None = None,
        attempts: int = 3,
        deadlines: ReplyDeadlines | None = None,
        checkpoints: CheckpointStore | None = None,
        selection: RoundSelection | None = None,
        selection_reason: str = "",
        average: RoundAverage | None = None,
        tables: Mapping[str, HeterogeneityTable] | None = None,
        event: EventCallback = lambda kind, **fields: None,
    ) -> None:
        self.server_optimizer = guard_part(server_optimizer, ServerOptimizer)
        self.server_state = guard_part(server_state, ServerMethodState) or MeanAccumulator()
        aggregation = guard_part(aggregation, Aggregation)
        self.extra, self.sends_gradients = extra or {}, sends_gradients
        self.statistics, self.sensitivities = statistics or {}, sensitivities or {}
        self.checkpoints = checkpoints
        self.tables = tables or {}
        self.event = event
        self.driver = RoundDriver(identity, participation, aggregation, attempts, deadlines or ReplyDeadlines(), event)
        self.selection, self.average = selection or RoundSelection(), average or RoundAverage()
        shapes, sensitivity = self.statistics.get(EVALUATE, {}), self.sensitivities.get(EVALUATE, 0.0)
        self.chooser = FinalModel(
            self.driver, self.selection, selection_reason, checkpoints, shapes, event, sensitivity
        )
        self.final: dict[str, np.ndarray] = {}
        self._arrays: State = {}
        self._reported_tables: Mapping[str, object] = {}

    def summary(self) -> None:
        """Report the parts of this strategy as an event (Flower's interface)."""
        parts = (self.driver.aggregation, self.server_optimizer)
        names = [type(get_part(part)).__name__ for part in parts]
        self.event("strategy", parts=names, sites=list(self.driver.participation.sites))

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

        Resumes after the last checkpoint if there is one.

        Raises:
            FederationError: too few sites accepted or replied.

        """
        result = Result(arrays=initial_arrays)

        def record_round(number: int, aggregate: Aggregate, arrays: State) -> None:
            result.train_metrics_clientapp[number] = build_metric_record(aggregate.statistics)
            if evaluate_fn and (scored := evaluate_fn(number, to_array_record(arrays))):
                result.evaluate_metrics_serverapp[number] = scored

        from fedhealth.flower.server.reply_grid import check_replies  # a run on one machine has no server

        settings = train_config, evaluate_config
        number, arrays = self.run(
            check_replies(grid), partial(unpack_arrays, initial_arrays), num_rounds, timeout, settings, record_round
        )
        result.evaluate_metrics_clientapp[number] = build_metric_record(self.final)
        result.arrays = to_array_record(arrays)
        return result

    def run(
        self,
        grid: Grid,
        take_initial: Callable[[], State],
        num_rounds: int,
        timeout: float,
        settings: tuple[ConfigRecord | None, ConfigRecord | None] = (None, None),
        record_round: Callable[[int, Aggregate, State], None] | None = None,
    ) -> tuple[int, State]:
        """Run the federation; return the exported round and its shared arrays.

        Args:
            grid: Flower's.
            take_initial: returns the initial arrays, and keeps no reference: a large model counts.
            num_rounds: to be completed.
            timeout: of a round, in seconds.
            settings: additional records for the sites, for training and for evaluation.
            record_round: called after each round with its number, its sums and the new shared arrays.

        Raises:
            FederationError: too few sites accepted or replied.

        """
        self.summary()
        initial, (train_config, evaluate_config) = take_initial(), settings
        state = self._restore_checkpoint() or self._build_first_checkpoint(initial)
        self.driver.aggregation.begin_history(initial, state.history)
        del initial
        state = _pack_state(state)
        self.driver.join(grid, timeout)
        self.event("started", rounds=num_rounds, completed=state.round)
        while state.round < num_rounds and not self.selection.is_over(state.scores):
            number = state.round + 1
            aggregate = self._train_round(grid, number, state.arrays, train_config, timeout)
            state = self._complete_round(state, number, aggregate, number == num_rounds)
            if record_round is not None:
                record_round(number, aggregate, _select_model_arrays(state.arrays))
            del aggregate  # two more of a large model
            state = _pack_state(state)
        state, self.final = self.chooser.choose_model(grid, state, evaluate_config, timeout)
        return state.round, _select_model_arrays(state.arrays)

    def describe(self, grid: Grid, timeout: float) -> dict[str, np.ndarray]:
        """Return the summed descriptive statistics of all sites, int64 by name; nothing is trained.

        Args:
            grid: Flower's.
            timeout: in seconds.

        Raises:
            FederationError: too few sites accepted or replied.

        """
        self.driver.join(grid, timeout)
        self.event("describing", sites=sorted(self.driver.members.nodes))
        sensitivity = self.sensitivities.get(DESCRIBE, 0.0)
        request = RoundRequest(DESCRIBE, 0, {}, {}, self.statistics[DESCRIBE], sensitivity=sensitivity)
        return self.driver.run_exchange(grid, request, timeout).statistics

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return a round's training messages (Flower's interface, for loops other than `start`)."""
        if not self.driver.members.nodes:
            self.driver.join(grid, timeout=3600)
        if not self._arrays:
            self._arrays = self._add_method_arrays({})
            self.driver.aggregation.begin_history(unpack_arrays(arrays), "")
        self._arrays |= unpack_arrays(arrays)
        request = self._build_train_request(server_round, self._arrays, config)
        directive = self.driver.create_directive(TRAIN, server_round)
        secret = self.driver.aggregation.open(self.driver.build_attempt(request, directive))
        content = build_request(directive, pack_arrays(self._arrays), config, secret)
        return build_messages(self.driver.members, content, TRAIN, str(server_round))

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the next shared arrays from a round's replies (Flower's interface)."""
        for message in replies:
            self.driver.add_reply(Reply(message.metadata.src_node_id, message, 0.0, 0, 0), server_round)
        aggregate = self.driver.aggregation.close(lambda kind, requests: iter(()))
        check_result(self.driver.aggregation, aggregate, self._arrays)
        self._arrays = self._step(self._arrays, aggregate)
        self.driver.aggregation.advance_history(aggregate, self._arrays)
        return to_array_record(_select_model_arrays(self._arrays)), build_metric_record(aggregate.statistics)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return no message: a site evaluates the incoming model in its training request."""
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Return nothing: see `configure_evaluate`."""
        return None

    def _add_method_arrays(self, arrays: State) -> State:
        """Return the model's arrays together with the method's initial arrays."""
        return arrays | {METHOD + name: value for name, value in self.server_state.initialize(self.extra).items()}

    def _build_first_checkpoint(self, arrays: State) -> RoundCheckpoint:
        return RoundCheckpoint(self.driver.identity.digest, 0, 0, self._add_method_arrays(arrays))

    def _restore_checkpoint(self) -> RoundCheckpoint | None:
        """Load the last checkpoint and restore the server optimizer's state."""
        state = self.checkpoints.load_latest() if self.checkpoints else None
        if state is None:
            return None
        if state.digest != self.driver.identity.digest:
            raise FederationError(
                "The checkpoints belong to another configuration.", "Resume with the run's own configuration."
            )
        self.server_optimizer.state = state.optimizer
        self.average.state = state.average
        self.driver.exchange = self.driver.saved_exchange = state.exchange
        self.event("resumed", round=state.round)
        return state

    def _complete_round(
        self, before: RoundCheckpoint, number: int, aggregate: Aggregate, is_last: bool
    ) -> RoundCheckpoint:
        """Return the state after a round, saved as a checkpoint before the next round starts."""
        # sites evaluate the incoming model
        scores = before.scores | read_validation_score(number - 1, aggregate.statistics)
        arrays = self._step(before.arrays, aggregate)
        self.average.add_model(_select_model_arrays(arrays))
        if is_last or self.selection.is_over(scores):
            arrays |= self.average.get_mean(_select_model_arrays(arrays), number)
        history = self.driver.aggregation.advance_history(aggregate, arrays)
        optimizer = dict(self.server_optimizer.state)
        state = RoundCheckpoint(before.digest, number, self.driver.exchange, arrays, optimizer, scores, history)
        state = replace(state, average=dict(self.average.state))
        if self.checkpoints:
            try:
                self.checkpoints.save(state)
            except OSError as fault:
                self.event("checkpoint_failed", round=number, reason=str(fault))
        self.driver.saved_exchange = state.exchange
        return state

    def _step(self, arrays: State, aggregate: Aggregate) -> State:
        """Return the next arrays: the model's by the server optimizer, the method's by its server state."""
        update = _select_model_arrays(self._average_over_all(aggregate) if self.sends_gradients else aggregate.update)
        model = step_checked(self.server_optimizer, _select_model_arrays(arrays), update)
        changed = {
            name.removeprefix(METHOD): change * self._get_reply_share(name, aggregate.sites)
            for name, change in aggregate.update.items()
            if name.startswith(METHOD)
        }
        extra = self.server_state.step(_select_method_arrays(arrays), changed, aggregate.statistics)
        return model | {METHOD + name: value for name, value in extra.items()}

    def _average_over_all(self, aggregate: Aggregate) -> State:
        """Return the gradients as means over all sites that replied, also of a tower that only some of them train."""
        weights = {site: self.driver.members.weights.get(site, {}) for site in aggregate.sites}
        total = sum(towers.get(SHARED, 0.0) for towers in weights.values()) or 1.0
        shares = {
            tower: np.float32(sum(towers.get(tower, 0.0) for towers in weights.values()) / total)
            for tower in map(get_tower, aggregate.update)
        }
        return {
            name: array if is_running_statistic(name) else array * shares[get_tower(name)]
            for name, array in aggregate.update.items()
        }

    def _get_reply_share(self, name: str, replied: Iterable[str]) -> np.float32:
        """Return the share of the total weight that replied, for the tower of an array."""
        weights = {site: towers.get(get_tower(name), 0.0) for site, towers in self.driver.members.weights.items()}
        return np.float32(sum(weights.get(site, 0.0) for site in replied) / (sum(weights.values()) or 1.0))

    def _build_train_request(self, number: int, arrays: State, config: ConfigRecord | None) -> RoundRequest:
        return RoundRequest(TRAIN, number, arrays, arrays, self.statistics.get(TRAIN, {}), config)

    def _train_round(
        self, grid: Grid, number: int, arrays: State, config: ConfigRecord | None, timeout: float
    ) -> Aggregate:
        started = time.monotonic()
        self.driver.rejoin(grid, timeout)
        sites = sorted(self.driver.members.nodes)
        self.event("round_started", round=number, sites=sites)
        aggregate = self.driver.run_exchange(grid, self._build_train_request(number, arrays, config), timeout)
        seconds = round(time.monotonic() - started, 3)
        results = {
            "pooled": summarize_statistics(aggregate.statistics),
            "divergence": self._compute_round_divergence(aggregate),
        }
        self.event("round_completed", round=number, seconds=seconds, sites=list(aggregate.sites), **results)
        self._report_heterogeneity(aggregate.statistics)
        return aggregate

    def _compute_round_divergence(self, aggregate: Aggregate) -> float | None:
        found = compute_divergence(aggregate.statistics, aggregate.update, len(aggregate.sites))
        return None if found is None else round(found, 4)

    def _report_heterogeneity(self, statistics: Mapping[str, np.ndarray]) -> None:
        """Report once how the sites differ, if their policies allow it."""
        counted = {name: statistics[name] for name in self.tables if name in statistics and statistics[name].any()}
        tables = {
            self.tables[name].name: {
                "rows": self.tables[name].rows,
                "edges": self.tables[name].edges,
                "counts": counts.tolist(),
            }
            for name, counts in counted.items()
        }
        if tables and tables != self._reported_tables:
            self.event("heterogeneity", tables=tables)
            self._reported_tables = tables


def _pack_state(state: RoundCheckpoint) -> RoundCheckpoint:
    """Return the state with its arrays as views of their packed bytes: requests then hold no copy of them."""
    return replace(state, arrays=unpack_arrays(pack_arrays(state.arrays)))


def _select_model_arrays(arrays: State) -> State:
    return {name: array for name, array in arrays.items() if not name.startswith(METHOD)}


def _select_method_arrays(arrays: State) -> State:
    return {name.removeprefix(METHOD): array for name, array in arrays.items() if name.startswith(METHOD)}
