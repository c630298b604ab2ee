"""Secure aggregation for own Flower apps: both halves together, and what the lead can see."""

import dataclasses

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from clients import SecureSite, make_secure_client
from fedhealth.consortium import identity
from fedhealth.errors import FederationError, SecureAggregationError
from fedhealth.flower.in_process_grid import InProcessGrid, reply_in_turn
from fedhealth.protocol.messages import TRAIN
from fedhealth.protocol.secure_terms import SecureTerms
from fedhealth.runtime.local_identities import temporary_identities
from strategies import SecureFedAvg

SITES = ("a", "b", "c", "d")
INITIAL = {"weight": np.zeros((2, 3), np.float32)}
TERMS = SecureTerms("run-1", SITES, ("loss",), ("accuracy",))


@pytest.fixture(autouse=True)
def own_secrets_(monkeypatch, tmp_path):
    """The run has one name in all tests, and other processes run them at the same time."""
    monkeypatch.setattr(identity, "_SHARED_MEMORY", tmp_path / "memory")
    (tmp_path / "memory").mkdir()


def make_stock_app(fail=(), metrics=None):
    app = ClientApp()

    @app.train()
    def fit(message, context):
        site = context.node_config["site"]
        assert message.content["config"]["server-round"] >= 1
        if site in fail:
            raise ValueError("patient 4711 is not in the table")
        weight = message.content["arrays"]["weight"].numpy() + np.float32(1 + SITES.index(site))
        own = metrics or {"num-examples": 10, "loss": 0.25 * SITES.index(site)}
        records = {"arrays": ArrayRecord({"weight": Array(weight)}), "metrics": MetricRecord(own)}
        return Message(RecordDict(records), reply_to=message)

    @app.evaluate()
    def score(message, context):
        own = MetricRecord({"num-examples": 5, "accuracy": 0.5, "secret": 1.0})
        return Message(RecordDict({"metrics": own}), reply_to=message)

    return app


class WatchedGrid(InProcessGrid):
    """Keeps what the sites send."""

    def pull_messages(self, message_ids):
        for message in super().pull_messages(message_ids):
            vars(self).setdefault("seen", []).append(message)
            yield message


def run_federation(folder, app=None, terms=TERMS, lead_terms=TERMS, initial=INITIAL, min_sites=None):
    def describe_site(context):
        name = context.node_config["site"]
        return SecureSite(name, folder / name, terms, initial, examples=64)

    grid = WatchedGrid(reply_in_turn(make_secure_client(app or make_stock_app(), describe_site)), SITES, {})
    events = []
    with temporary_identities(terms.run, {site: folder / site for site in SITES}, folder / "lead"):
        strategy = SecureFedAvg(
            lead_terms, folder / "lead", min_sites=min_sites, event=lambda kind, **f: events.append((kind, f))
        )
        start = ArrayRecord({name: Array(array) for name, array in INITIAL.items()})
        result = strategy.start(grid, start, num_rounds=2)
    return result, grid, events


def test_two_rounds_give_the_mean_and_the_metrics(tmp_path):
    result, _, _ = run_federation(tmp_path)
    np.testing.assert_allclose(result.arrays["weight"].numpy(), np.full((2, 3), 5.0), atol=1e-5)
    assert result.train_metrics_clientapp[2]["loss"] == pytest.approx(0.375)
    assert dict(result.evaluate_metrics_clientapp[2]) == {"examples": 20, "accuracy": 0.5}


def test_no_reply_holds_an_update_a_metric_or_a_count(tmp_path):
    _, grid, _ = run_federation(tmp_path)
    records = {name for message in grid.seen for name in message.content}
    assert records == {"acceptance", "secagg", "sealed"}
    trained = [m for m in grid.seen if m.metadata.message_type == TRAIN]
    assert len(trained) == 8
    assert not any(np.full(6, step, np.float32).tobytes() in _dump(m) for m in trained for step in (1, 2, 3, 4))


def _dump(message):
    return b"".join(v if isinstance(v, bytes) else v.data for r in message.content.values() for v in r.values())


def test_a_site_that_fails_is_left_out_and_its_text_stays(tmp_path):
    result, grid, events = run_federation(tmp_path, make_stock_app(fail="d"), min_sites=3)
    np.testing.assert_allclose(result.arrays["weight"].numpy(), np.full((2, 3), 4.0), atol=1e-5)
    failed = [fields for kind, fields in events if kind == "site_failed"]
    assert {fields["site"] for fields in failed} == {"d"}
    # The whole sentence: four digits alone also occur in random identifiers and ciphertexts.
    assert not any("is not in the table" in str(message) for message in grid.seen)


@pytest.mark.parametrize("metrics", [{"num-examples": 10}, {"loss": 1.0}, {"num-examples": 10, "loss": float("nan")}])
def test_a_metric_that_was_agreed_must_be_there(tmp_path, metrics):
    with pytest.raises(FederationError, match="0 of 4 sites replied"):
        run_federation(tmp_path, make_stock_app(metrics=metrics))


def test_a_site_with_other_terms_refuses(tmp_path):
    other = dataclasses.replace(TERMS, clipping_range=1e6)
    with pytest.raises(FederationError, match="0 of 4 sites accepted"):
        run_federation(tmp_path, lead_terms=other)


def test_a_lead_that_sends_another_first_model_gets_nothing(tmp_path):
    with pytest.raises(FederationError, match="0 of 4 sites replied"):
        run_federation(tmp_path, initial={"weight": np.ones((2, 3), np.float32)})


def test_two_sites_are_too_few(tmp_path):
    terms = SecureTerms("run-2", ("a", "b"))
    folders = {site: tmp_path / site for site in terms.sites}
    lead = tmp_path / "lead"
    with temporary_identities(terms.run, folders, lead), pytest.raises(SecureAggregationError, match="too few"):
        SecureFedAvg(terms, lead)
