"""The round loop against sites made of a few lines: what it sends, folds, forgives and refuses."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from flwr.app import Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import Strategy

from fedhealth.errors import ConfigError, FederationError
from fedhealth.flower.in_process_grid import InProcessGrid, reply_in_turn
from fedhealth.protocol.array_codec import pack_arrays, unpack_arrays
from fedhealth.protocol.messages import (
    ACCEPTANCE,
    EVALUATE,
    GLOBAL,
    HANDSHAKE,
    STATISTICS,
    TRAIN,
    UPDATE,
    Acceptance,
    Directive,
)
from strategies.aggregation.mean import WeightedMean
from strategies.fedavg import FedAvg
from strategies.messaging import exchange_messages
from strategies.participants import Participation
from strategies.round_request import RunIdentity
from strategies.server_optimizers.averaging import Averaging

SITES = ("a", "b", "c")
TOLD = {
    TRAIN: {"train.examples": (1,), "train.loss": (1,)},
    EVALUATE: {"test.positives": (1, 2), "test.negatives": (1, 2)},
}


class Federation:
    """Sites that move every value by their own step; `faults` replaces what a site answers to training."""

    def __init__(self, faults=None, reasons=None):
        self.faults, self.reasons = faults or {}, reasons or {}
        self.directives, self.events = [], []
        app = ClientApp()
        app.query("handshake")(self.handshake)
        app.train("fit")(self.train)
        app.evaluate("score")(self.evaluate)
        self.grid = InProcessGrid(reply_in_turn(app), SITES, {})

    def handshake(self, message, context):
        site = context.node_config["site"]
        record = Acceptance(site, tuple(self.reasons.get(site, ())), {"shared": 10}, "").record()
        return Message(RecordDict({ACCEPTANCE: record}), reply_to=message)

    def train(self, message, context):
        site = context.node_config["site"]
        self.directives.append(Directive.parse(message.content))
        if fault := self.faults.get(site):
            return fault(message)
        step = np.float32(1 + SITES.index(site))
        update = {name: np.full(array.shape, step) for name, array in unpack_arrays(message.content[GLOBAL]).items()}
        statistics = {"train.examples": np.array([10]), "train.loss": np.array([1 << 20])}
        return Message(RecordDict({UPDATE: pack_arrays(update), STATISTICS: pack_arrays(statistics)}), reply_to=message)

    def evaluate(self, message, context):
        counts = {"test.positives": np.array([[0, 5]]), "test.negatives": np.array([[5, 0]])}
        return Message(RecordDict({STATISTICS: pack_arrays(counts)}), reply_to=message)

    def run(self, rounds=2, aggregation=None, **cohort):
        strategy = FedAvg(
            RunIdentity("run", "digest"),
            Participation(SITES, **cohort),
            aggregation or WeightedMean(),
            Averaging(),
            statistics=TOLD,
            event=lambda kind, **fields: self.events.append({"event": kind, **fields}),
        )
        result = strategy.start(self.grid, pack_arrays({"w": np.zeros(4, np.float32)}), num_rounds=rounds)
        return strategy, unpack_arrays(result.arrays)["w"]

    def of(self, kind):
        return [event for event in self.events if event["event"] == kind]


def refuse(message):
    return Message(Error(1003, "DataError"), reply_to=message)


def garble(message):
    return Message(RecordDict({UPDATE: pack_arrays({"w": np.full(4, np.nan, np.float32)})}), reply_to=message)


def test_two_rounds_average_the_sites():
    federation = Federation()
    strategy, model = federation.run()
    assert issubclass(FedAvg, Strategy)
    assert model.tolist() == [4.0] * 4  # mean step 2, twice
    assert strategy.final["test.positives"].sum() == 15
    pooled = federation.of("evaluation_completed")[0]["pooled"]
    assert pooled["test"]["auroc"] == 1.0


class ScaledMean(WeightedMean):
    """An own aggregation that makes something else of the mean."""

    def __init__(self, change):
        super().__init__()
        self.change = change

    def close(self, send_follow_up):
        result = super().close(send_follow_up)
        return replace(result, update={name: self.change(values) for name, values in result.update.items()})


@pytest.mark.parametrize("change", [lambda values: values * np.nan, lambda values: values[:1], np.float64])
def test_an_aggregation_that_returns_no_update_of_the_model_ends_the_run_in_the_first_round(change):
    federation = Federation()
    with pytest.raises(ConfigError, match=r"ScaledMean \(.*test_fedavg.py\) returned w"):
        federation.run(aggregation=ScaledMean(change))
    assert not federation.of("round_completed")
    assert not federation.of("attempt_failed")  # trying again would not help


def test_every_directive_says_where_the_run_stands():
    federation = Federation()
    federation.run(rounds=3)
    rounds = [directive.round for directive in federation.directives]
    exchanges = sorted({directive.exchange for directive in federation.directives})
    assert rounds == [1] * 3 + [2] * 3 + [3] * 3
    assert len(exchanges) == 3
    assert all(directive.cohort == SITES for directive in federation.directives)


def test_bytes_are_counted_for_each_site_and_direction():
    federation = Federation()
    federation.run(rounds=1)
    for event in federation.of("site_answered"):
        assert event["sent"] >= 16
        assert event["received"] >= 16


@pytest.mark.parametrize(("fault", "message"), [(refuse, "DataError"), (garble, "nan")])
def test_a_failed_site_costs_its_own_contribution_only(fault, message):
    federation = Federation(faults={"c": fault})
    _, model = federation.run(quorum=0.6, min_sites=2)
    assert model.tolist() == [3.0] * 4  # the mean of 1 and 2, twice
    failed = federation.of("site_failed")
    assert {event["site"] for event in failed} == {"c"}
    assert message in failed[0]["reason"]


def test_below_the_quorum_the_round_fails_and_says_so():
    with pytest.raises(FederationError, match=r"Round 1: 2 of 3 sites replied, 3 are needed") as caught:
        Federation(faults={"c": refuse}).run()
    assert "quorum" in caught.value.advice


def diverge(message):
    return Message(Error(1004, "ModelError"), reply_to=message)


@pytest.mark.parametrize(("fault", "attempts"), [(diverge, 1), (refuse, 3)])
def test_training_that_would_diverge_again_is_not_repeated(fault, attempts):
    federation = Federation(faults={"c": fault})
    with pytest.raises(FederationError, match="2 of 3 sites replied"):
        federation.run()
    assert len(federation.of("attempt_failed")) == attempts


def test_a_site_that_diverges_costs_no_attempt_where_the_others_are_enough():
    federation = Federation(faults={"c": diverge})
    _, model = federation.run(quorum=0.6, min_sites=2)
    assert model.tolist() == [3.0] * 4
    assert not federation.of("attempt_failed")


def test_a_declined_handshake_names_site_and_reasons():
    reasons = {"b": ["another release", "budget spent"]}
    with pytest.raises(FederationError, match="b: another release; budget spent"):
        Federation(reasons=reasons).run()
    federation = Federation(reasons=reasons)
    federation.run(min_sites=2)
    assert federation.directives[0].cohort == ("a", "c")


def test_a_stock_server_app_can_start_it():
    federation = Federation()
    app = ServerApp()

    @app.main()
    def main(grid, context):
        strategy = FedAvg(RunIdentity("run", ""), Participation(SITES), WeightedMean(), Averaging(), statistics=TOLD)
        context.result = strategy.start(grid, pack_arrays({"w": np.zeros(2, np.float32)}), num_rounds=1)

    context = SimpleNamespace(run_config={})
    app(federation.grid, context)
    assert unpack_arrays(context.result.arrays)["w"].tolist() == [2.0, 2.0]


def test_flowers_own_interface_gives_the_same_round():
    federation = Federation()
    strategy = FedAvg(RunIdentity("run", ""), Participation(SITES), WeightedMean(), Averaging(), statistics=TOLD)
    messages = strategy.configure_train(1, pack_arrays({"w": np.zeros(2, np.float32)}), {}, federation.grid)
    replies = federation.grid.send_and_receive(messages)
    arrays, metrics = strategy.aggregate_train(1, replies)
    assert unpack_arrays(arrays)["w"].tolist() == [2.0, 2.0]
    assert metrics["examples"] == 30


def test_flowers_own_interface_checks_what_an_aggregation_returns():
    federation, own = Federation(), ScaledMean(lambda values: values * np.nan)
    strategy = FedAvg(RunIdentity("run", ""), Participation(SITES), own, Averaging(), statistics=TOLD)
    messages = strategy.configure_train(1, pack_arrays({"w": np.zeros(2, np.float32)}), {}, federation.grid)
    with pytest.raises(ConfigError, match=r"ScaledMean \(.*\) returned w with values that are not finite"):
        strategy.aggregate_train(1, federation.grid.send_and_receive(messages))


class SilentGrid(InProcessGrid):
    """Node 2 never answers."""

    def pull_messages(self, message_ids):
        quick = [i for i in message_ids if i in self._pushed and self._pushed[i].metadata.dst_node_id != 2]
        return super().pull_messages(quick)


def test_the_deadline_gives_up_on_the_silent_only():
    federation = Federation()
    federation.grid.__class__ = SilentGrid
    question = RecordDict({"directive": Directive("r", "d", 1, 1, 0, SITES).record(), GLOBAL: pack_arrays({})})
    replies = list(
        exchange_messages(
            federation.grid, TRAIN, {1: question, 2: question, 3: question}, "1", dict.fromkeys((1, 2, 3), 0.2)
        )
    )
    assert sorted(reply.node for reply in replies) == [1, 3]


class LateGrid(InProcessGrid):
    """Node 2 fails in round 2 and does not answer the handshake after it, as a site that works on an old message."""

    handshakes = 0

    def push_messages(self, messages):
        messages = list(messages)
        self.kind = messages[0].metadata.message_type
        self.handshakes += self.kind == HANDSHAKE
        return super().push_messages(messages)

    def pull_messages(self, message_ids):
        if self.kind == HANDSHAKE and self.handshakes == 2:
            message_ids = [i for i in message_ids if i in self._pushed and self._pushed[i].metadata.dst_node_id != 2]
        return super().pull_messages(message_ids)


def test_a_connected_site_that_missed_one_handshake_is_asked_again_before_the_next_round(monkeypatch):
    """Its node stays connected, so nothing else tells the lead that it is there again."""
    monkeypatch.setattr("strategies.round_driver._REJOIN_SECONDS", 0.1)
    federation = Federation()
    federation.faults["b"] = lambda message: federation.faults.pop("b") and refuse(message)
    federation.grid.__class__ = LateGrid
    federation.run(rounds=4, min_sites=2, quorum=0.5)
    there = ["b" in event["sites"] for event in federation.of("round_completed")]
    assert there == [False, False, True, True]
    assert vars(federation.grid)["handshakes"] == 3


def test_names_on_the_wire_are_flower_message_types():
    for name in (HANDSHAKE, TRAIN, EVALUATE):
        category, action = name.split(".")
        assert category in ("train", "evaluate", "query")
        assert action.isidentifier()
