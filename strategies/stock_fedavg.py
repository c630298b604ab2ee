"""FedAvg for stock Flower clients: Flower's sampling and messages, with an aggregation and a server optimizer of ours.

The clients are plain `flwr.clientapp.ClientApp`s that know nothing of fedhealth: they get `arrays` and `config` and
reply with `arrays` and `metrics`. The lead sees every client's update; see `strategies.secure_fedavg` for sums only.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp import strategy as flower

from fedhealth.errors import ConfigError, FederationError, FedhealthError
from fedhealth.models.modality_keys import SHARED, get_tower
from fedhealth.protocol.array_codec import get_arrays, pack_arrays, to_array_record, unpack_arrays
from fedhealth.protocol.messages import TRAIN, UPDATE, Directive
from fedhealth.types import State
from fedhealth.utils.guarded_part import get_part, guard_part
from fedhealth.utils.own_code import OwnCodeError
from strategies.aggregation.base import Aggregate, Aggregation, RoundAttempt
from strategies.aggregation.checks import check_result
from strategies.aggregation.mean import WeightedMean
from strategies.server_optimizers.averaging import Averaging
from strategies.server_optimizers.base import ServerOptimizer
from strategies.server_optimizers.checks import step_checked

log = logging.getLogger("fedhealth.lead")


class StockFedAvg(flower.FedAvg):
    """Flower's FedAvg with another aggregation and server optimizer.

    Args:
        aggregation: of the clients' updates; None takes the mean weighted by `num-examples`, as an exact sum.
        server_optimizer: turns the mean update into the next model; None adds it.
        **options: those of `flwr.serverapp.strategy.FedAvg`, such as `fraction_train` and `min_train_nodes`.

    Raises:
        ConfigError: the aggregation needs clients that mask their updates.

    """

    def __init__(
        self, aggregation: Aggregation | None = None, server_optimizer: ServerOptimizer | None = None, **options: Any
    ) -> None:
        super().__init__(**options)
        self.aggregation: Aggregation = guard_part(aggregation, Aggregation) or WeightedMean()
        self.server_optimizer: ServerOptimizer = guard_part(server_optimizer, ServerOptimizer) or Averaging()
        self._arrays: State = {}
        if not getattr(get_part(self.aggregation), "sees_single_updates", True):
            name = type(get_part(self.aggregation)).__name__
            raise ConfigError(f"Stock clients cannot mask their updates for {name}.", "Use strategies.SecureFedAvg.")

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return a round's training messages, as Flower builds them, with arrays of any shapes and types by name."""
        self._arrays = unpack_arrays(arrays)
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the next arrays, of the same shapes and types, and the mean metrics; None without a reply."""
        answers = dict(filter(None, map(self._read_reply, replies)))
        weights = {name: weight for name, (_, weight, _) in answers.items()}
        attempt = self._build_attempt(server_round, weights)
        self.aggregation.open(attempt)
        contents = [content for name, (update, _, content) in answers.items() if self._add(name, update)]
        if not contents:
            return None, None
        aggregate = self.aggregation.close(lambda kind, requests: iter(()))
        check_result(self.aggregation, aggregate, attempt.expected)
        return self._step(aggregate), self.train_metrics_aggr_fn(_select_alike(contents), self.weighted_by_key)

    def _read_reply(self, message: Message) -> tuple[str, tuple[State, float, RecordDict]] | None:
        """Return the node's name, its update, weight and whole reply; None, with a warning, for an invalid one."""
        name = f"node {message.metadata.src_node_id}"
        if message.has_error():
            log.warning("%s is left out: %s", name, message.error.reason)
            return None
        try:
            arrays = unpack_arrays(get_arrays(message.content, self.arrayrecord_key))
            return name, (self._subtract(arrays), self._read_weight(message.content), message.content)
        except FedhealthError as fault:
            log.warning("%s is left out: %s", name, fault.problem)
            return None

    def _subtract(self, arrays: State) -> State:
        """Return the update, float32: the client's arrays minus those that it was sent."""
        before = self._arrays
        if {name: a.shape for name, a in arrays.items()} != {name: a.shape for name, a in before.items()}:
            raise FederationError("it sent other arrays than requested.", "Use the same model everywhere.")
        try:
            return {name: np.asarray(array - before[name], np.float32) for name, array in arrays.items()}
        except TypeError as fault:  # truth values cannot be subtracted
            raise FederationError("its arrays are no numbers.", "Use a model of numbers.") from fault

    def _read_weight(self, content: RecordDict) -> float:
        """Return the client's `num-examples`, in the first of its metric records, where Flower's mean reads it too."""
        for record in list(content.metric_records.values())[:1]:
            weight = record.get(self.weighted_by_key)
            if isinstance(weight, int | float) and 0 < weight < 2**40:
                return float(weight)
        raise FederationError(f"its metrics have no positive {self.weighted_by_key!r}.", "Add it to the reply.")

    def _build_attempt(self, server_round: int, weights: Mapping[str, float]) -> RoundAttempt:
        directive = Directive("", "", server_round, server_round, 0, tuple(sorted(weights)))
        towers = {SHARED, *map(get_tower, self._arrays)}
        by_tower = {name: dict.fromkeys(towers, weight) for name, weight in weights.items()}
        expected = {name: np.zeros(array.shape, np.float32) for name, array in self._arrays.items()}
        return RoundAttempt(TRAIN, directive, self._arrays, expected, {}, by_tower)

    def _add(self, name: str, update: State) -> bool:
        """Aggregate one update; return whether it was valid."""
        try:
            self.aggregation.add(name, RecordDict({UPDATE: pack_arrays(update)}))
        except OwnCodeError:
            raise
        except FedhealthError as fault:
            log.warning("%s is left out: %s", name, fault.problem)
            return False
        return True

    def _step(self, aggregate: Aggregate) -> ArrayRecord:
        return to_array_record(step_checked(self.server_optimizer, self._arrays, aggregate.update))


def _select_alike(contents: Sequence[RecordDict]) -> list[RecordDict]:
    """Return the replies whose metrics have the most common form: Flower's mean fails if a number meets a list."""
    forms = [_describe_metrics(content) for content in contents]
    common, count = Counter(forms).most_common(1)[0]
    if count < len(forms):
        log.warning("the metrics of %d replies are left out: others have another form", len(forms) - count)
    return [content for content, form in zip(contents, forms, strict=True) if form == common]


def _describe_metrics(content: RecordDict) -> frozenset[tuple[str, int | None]]:
    """Return the names of all metrics, with the length of lists."""
    values = [pair for record in content.metric_records.values() for pair in record.items()]
    return frozenset((name, len(value) if isinstance(value, list) else None) for name, value in values)
