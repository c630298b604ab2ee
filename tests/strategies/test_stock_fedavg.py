"""FedAvg for stock Flower clients, against clients that know nothing of fedhealth."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedhealth.errors import ConfigError, FederationError
from fedhealth.flower.in_process_grid import InProcessGrid, reply_in_turn
from strategies import Momentum, RobustAggregation, SecureSum, StockFedAvg, coordinate_median

SITES = ("a", "b", "c")
STEPS = {"a": 1.0, "b": 2.0, "c": 30.0}
EXAMPLES = {"a": 10, "b": 10, "c": 20}


def run_federation(strategy, rounds=2, train=None):
    app = ClientApp()

    @app.train()
    def fit(message, context):
        site = context.node_config["site"]
        if train and (own := train(site, message)):
            return own
        arrays = {name: array.numpy() for name, array in message.content["arrays"].items()}
        arrays |= {"weight": arrays["weight"] + np.float32(STEPS[site]), "steps": arrays["steps"] + 4}
        record = ArrayRecord({name: Array(np.asarray(array)) for name, array in arrays.items()})
        metrics = MetricRecord({"num-examples": EXAMPLES[site], "loss": STEPS[site]})
        return Message(RecordDict({"arrays": record, "metrics": metrics}), reply_to=message)

    @app.evaluate()
    def score(message, context):
        return Message(RecordDict({"metrics": MetricRecord({"num-examples": 1, "accuracy": 0.5})}), reply_to=message)

    initial = ArrayRecord({"weight": Array(np.zeros((2, 2), np.float32)), "steps": Array(np.zeros(1, np.int64))})
    result = strategy.start(InProcessGrid(reply_in_turn(app), SITES, {}), initial, num_rounds=rounds)
    return result, {name: array.numpy() for name, array in result.arrays.items()}


def test_it_is_the_mean_weighted_by_examples():
    result, model = run_federation(StockFedAvg())
    assert model["weight"].tolist() == [[31.5, 31.5], [31.5, 31.5]]  # (10 x 1 + 10 x 2 + 20 x 30) / 40, twice
    assert model["steps"].tolist() == [8]
    assert model["steps"].dtype == np.int64
    assert result.train_metrics_clientapp[2]["loss"] == pytest.approx(15.75)
    assert result.evaluate_metrics_clientapp[2]["accuracy"] == 0.5


def test_another_aggregation_and_server_optimizer_are_exchanged_for_it():
    strategy = StockFedAvg(RobustAggregation(coordinate_median), Momentum(momentum=0.5), fraction_evaluate=0.0)
    _, model = run_federation(strategy)
    assert model["weight"][0, 0] == 2 + (0.5 * 2 + 2)


@pytest.mark.parametrize(
    ("rule", "problem"),
    [(lambda vectors: vectors[0] * np.nan, "not finite"), (lambda vectors: vectors[0][:1], r"\[1\]")],
)
def test_an_own_rule_that_returns_no_update_ends_the_run(rule, problem):
    with pytest.raises(ConfigError, match=problem):
        run_federation(StockFedAvg(RobustAggregation(rule)), rounds=1)


def test_an_error_other_arrays_and_values_that_are_not_finite_are_left_out(caplog):
    def train(site, message):
        arrays = ArrayRecord({"weight": Array(np.full((2, 2), np.nan, np.float32)), "steps": Array(np.zeros(1, int))})
        if site == "a":
            return Message(Error(1, "broken"), reply_to=message)
        if site == "b":
            arrays = ArrayRecord({"other": Array(np.zeros(1, np.float32))})
        return Message(RecordDict({"arrays": arrays, "m": MetricRecord({"num-examples": 3})}), reply_to=message)

    result, _ = run_federation(StockFedAvg(), rounds=1, train=train)
    assert not result.train_metrics_clientapp
    assert sorted(r.getMessage() for r in caplog.records if "left out" in r.getMessage()) == [
        "node 1 is left out: broken",
        "node 2 is left out: it sent other arrays than requested.",
        "node 3 is left out: Site 'node 3' sent weight with non-finite values such as nan.",
    ]


@pytest.mark.parametrize("examples", [0, -1, None])
def test_a_client_without_a_weight_is_left_out(examples, caplog):
    def train(site, message):
        metrics = MetricRecord({} if examples is None else {"num-examples": examples})
        return Message(RecordDict({"arrays": message.content["arrays"], "metrics": metrics}), reply_to=message)

    run_federation(StockFedAvg(), rounds=1, train=train)
    assert "no positive 'num-examples'" in caplog.text


def test_secure_aggregation_is_refused_for_clients_that_cannot_mask():
    with pytest.raises(ConfigError, match="cannot mask") as caught:
        StockFedAvg(SecureSum(sites=SITES))
    assert "SecureFedAvg" in caught.value.advice


@pytest.mark.parametrize(
    "records",
    [
        {"m": MetricRecord({"num-examples": 10, "loss": [1.0]})},
        {"m": MetricRecord({"num-examples": 10, "loss": 1.0, "more": 2})},
        {"a": MetricRecord({"x": 1}), "m": MetricRecord({"num-examples": 10})},
    ],
)
def test_metrics_of_another_form_cost_nobody_elses(records, caplog):
    def train(site, message):
        arrays = message.content["arrays"]
        return Message(RecordDict({"arrays": arrays, **records}), reply_to=message) if site == "a" else None

    result, _ = run_federation(StockFedAvg(), rounds=1, train=train)
    assert result.train_metrics_clientapp[1]["loss"] == pytest.approx((10 * 2 + 20 * 30) / 30)
    assert "left out" in caplog.text


def test_arrays_that_are_no_numbers_are_left_out():
    strategy = StockFedAvg()
    strategy._arrays = {"mask": np.array([True])}
    with pytest.raises(FederationError, match="no numbers"):
        strategy._subtract({"mask": np.array([False])})
