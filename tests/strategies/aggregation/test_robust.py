"""Aggregations that a false update cannot steer."""

from functools import partial

import numpy as np
import pytest
from flwr.app import RecordDict
from safetensors.numpy import load_file

import clients.app
from fedhealth.config.compose import compose_config
from fedhealth.config.validate import validate_config
from fedhealth.errors import ConfigError, FederationError
from fedhealth.experiment.launch import launch_run
from fedhealth.experiment.run_spec import RunSpec
from fedhealth.models.model_state import compute_l2_norm
from fedhealth.protocol.array_codec import pack_arrays, unpack_arrays
from fedhealth.protocol.messages import TRAIN, UPDATE, Directive
from fedhealth.runs.run_dir import RunDir
from strategies.aggregation.base import RoundAttempt
from strategies.aggregation.robust import RobustAggregation, coordinate_median, krum, trimmed_mean

SITES = ("a", "b", "c", "d", "e")
VECTORS = [np.array(v, np.float32) for v in ([1, 1], [1.2, 0.8], [0.8, 1.2], [1.1, 1.1], [100, -100])]


def test_median_by_hand():
    assert coordinate_median(VECTORS).tolist() == pytest.approx([1.1, 1.0])


def test_trimmed_mean_by_hand():
    assert trimmed_mean(VECTORS, 0.2).tolist() == pytest.approx([(1 + 1.2 + 1.1) / 3, (1 + 0.8 + 1.1) / 3])
    assert trimmed_mean(VECTORS, 0.0).tolist() == pytest.approx(np.mean(VECTORS, axis=0).tolist())


def test_krum_by_hand():
    # n = 5, f = 1: two nearest neighbours. Squared distances: a-b .08, a-c .08, a-d .02, b-c .32, b-d .1, c-d .1.
    # Scores: a .10, b .18, c .18, d .12, e far.
    assert krum(VECTORS).tolist() == [1, 1]
    assert krum(VECTORS, keep=2).tolist() == pytest.approx([1.05, 1.05])


def test_a_single_owner_is_its_own_answer():
    for rule in (coordinate_median, trimmed_mean, krum, partial(krum, keep=3)):
        assert rule(VECTORS[:1]).tolist() == [1, 1]


def aggregated(aggregation, updates, weights=None):
    expected = {"fusion.w": np.zeros(2, np.float32), "towers.text.encoder.w": np.zeros(2, np.float32)}
    weights = weights or {site: {"shared": 1.0, "text": 1.0} for site in updates}
    directive = Directive("r", "d", 1, 1, 0, tuple(sorted(updates)))
    aggregation.open(RoundAttempt(TRAIN, directive, expected, expected, {}, weights))
    for site, value in updates.items():
        aggregation.add(site, RecordDict({UPDATE: pack_arrays(dict.fromkeys(expected, value))}))
    return aggregation.close(lambda kind, questions: iter(()))


def test_only_the_owners_of_a_tower_count():
    updates = dict(zip(SITES, VECTORS, strict=True))
    weights = {site: {"shared": 1.0} | ({"text": 1.0} if site in "abd" else {}) for site in SITES}
    found = aggregated(RobustAggregation(coordinate_median), updates, weights)
    assert found.update["fusion.w"].tolist() == pytest.approx([1.1, 1.0])
    assert found.update["towers.text.encoder.w"].tolist() == pytest.approx([1.1, 1.0])
    found = aggregated(RobustAggregation(coordinate_median), updates, weights | {"e": {"shared": 1.0, "text": 1.0}})
    assert found.update["towers.text.encoder.w"].tolist() == pytest.approx([1.15, 0.9])


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_what_is_no_number_or_beyond_the_bound_is_refused(value):
    aggregation = RobustAggregation(coordinate_median, max_norm=10.0)
    with pytest.raises(FederationError, match=r"non-finite|norm"):
        aggregated(aggregation, {"a": np.array([1.0, value], np.float32)})


@pytest.fixture(name="run")
def run_(tmp_path, good_hospitals, tiny_overrides):
    def go(name, *overrides) -> RunDir:
        overrides = [
            *tiny_overrides(good_hospitals),
            "training=sgd",
            "strategy.rounds=1",
            "training.threads=1",
            *overrides,
        ]
        folder = RunDir(tmp_path / name)
        launch_run(RunSpec.compose(overrides, folder))
        return folder

    return go


@pytest.fixture
def poisoned(monkeypatch):
    """South turns its update around and multiplies it by a thousand."""
    genuine = clients.app.handle_message

    def poison(message, context, job):
        reply = genuine(message, context, job)
        if message.metadata.message_type == TRAIN and context.node_config["site"] == "south":
            update = unpack_arrays(reply.content[UPDATE])
            reply.content[UPDATE] = pack_arrays({n: (-1000 * a).astype(np.float32) for n, a in update.items()})
        return reply

    monkeypatch.setattr(clients.app, "handle_message", poison)


def model(run: RunDir):
    return load_file(run.path / "model.safetensors")


@pytest.mark.parametrize(
    "rule", ["median", *(pytest.param(name, marks=pytest.mark.long) for name in ("trimmed_mean", "krum"))]
)
def test_a_poisoning_site_moves_the_mean_far_and_the_rule_hardly(rule, run, poisoned):
    share = ["strategy.aggregation.rule.share=0.34"] if rule == "trimmed_mean" else []
    start = model(run("start", "training.optimizer.lr=0"))
    moved = model(run("mean"))
    robust = model(run(rule, f"strategy/aggregation={rule}", *share))
    far, near = (compute_l2_norm({n: each[n] - start[n] for n in start}) for each in (moved, robust))
    assert near < far / 50


@pytest.mark.parametrize("rule", ["median", "trimmed_mean", "krum", "multi_krum"])
def test_with_secure_aggregation_it_is_refused_before_anything_starts(rule, tmp_path):
    overrides = [f"data.root={tmp_path}", "secagg=on", f"strategy/aggregation={rule}"]
    with pytest.raises(ConfigError, match="sees sums only"):
        validate_config(compose_config(overrides))


@pytest.mark.parametrize("secagg", ["on", "off"])
def test_no_update_is_longer_than_agreed(secagg, run):
    start = model(run("start", "training.optimizer.lr=0"))
    end = model(run("bounded", f"secagg={secagg}", "strategy.max_update_norm=0.001"))
    assert 1e-4 < compute_l2_norm({n: end[n] - start[n] for n in start}) <= 0.00101


def test_an_update_longer_than_agreed_leaves_its_site_out(run, poisoned):
    folder = run("lying", "strategy.max_update_norm=0.5", "strategy.quorum=0.5", "strategy.min_sites=2")
    failed = [event for event in folder.read_events()[0] if event["event"] == "site_failed"]
    assert [event["site"] for event in failed] == ["south"]
    assert "the limit is 0.5" in failed[0]["reason"]
