"""An answer counts whole or not at all: whatever a site sends, it is folded or refused, and nothing else happens."""

from functools import partial

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from fedhealth.errors import ConfigError, FederationError, FedhealthError
from fedhealth.protocol.array_codec import PACKED, SERIAL, pack_arrays, to_array_record
from fedhealth.protocol.messages import STATISTICS, TRAIN, UPDATE, Directive
from fedhealth.utils.own_code import OwnCodeError
from strategies.aggregation.base import Aggregate, RoundAttempt
from strategies.aggregation.checks import apply_rule, check_result, check_statistics
from strategies.aggregation.mean import WeightedMean
from strategies.aggregation.robust import RobustAggregation, coordinate_median

ARRAYS = {"w": np.zeros((2, 3), np.float32)}
TOLD = {"train.loss": (1,), "validation.positives": (2, 4)}
SITES = ("a", "b", "c")


def opened(aggregation):
    weights = {site: {"shared": 1.0} for site in SITES}
    aggregation.open(RoundAttempt(TRAIN, Directive("r", "d", 1, 1, 0, SITES), ARRAYS, ARRAYS, TOLD, weights))
    return aggregation


@pytest.fixture(
    name="aggregation", params=[WeightedMean, lambda: RobustAggregation(coordinate_median)], ids=["mean", "robust"]
)
def aggregation_(request):
    return opened(request.param())


def good(step=1.0):
    counts = {"train.loss": np.array([7]), "validation.positives": np.ones((2, 4), np.int64)}
    return RecordDict({UPDATE: pack_arrays({"w": np.full((2, 3), step, np.float32)}), STATISTICS: pack_arrays(counts)})


def closed(aggregation):
    return aggregation.close(lambda kind, questions: iter(()))


@pytest.mark.parametrize(
    "statistics",
    [
        {"train.loss": np.ones((2, 4), np.int64)},  # would have been broadcast
        {"validation.positives": np.ones(4, np.int64)},
        {"train.loss": np.array([1.0])},
        {"train.loss": np.array([2**62])},
        {"train.loss": np.array([-(2**63)])},
        {"patients": np.array([1])},
    ],
    ids=["broadcast", "shape", "type", "overflow", "least", "name"],
)
def test_statistics_that_do_not_fit_are_refused_with_their_update(aggregation, statistics):
    aggregation.add("a", good())
    bad = RecordDict({UPDATE: good(100.0)[UPDATE], STATISTICS: pack_arrays(statistics)})
    with pytest.raises(FederationError, match="Site 'b' sent"):
        aggregation.add("b", bad)
    found = closed(aggregation)
    assert found.sites == ("a",)
    assert found.update["w"].max() == 1.0
    assert found.statistics["train.loss"].tolist() == [7]


def test_a_small_group_may_be_left_out(aggregation):
    aggregation.add("a", RecordDict({UPDATE: good()[UPDATE], STATISTICS: pack_arrays({"train.loss": np.array([3])})}))
    aggregation.add("b", good())
    assert closed(aggregation).statistics["train.loss"].tolist() == [10]


SIDES = {"test.positives": (1, 4), "test.negatives": (1, 4), "train.examples": (1,)}
COUNTS = {name: np.ones(shape, np.int64) for name, shape in SIDES.items()}


@pytest.mark.parametrize("left_out", ["test.positives", "test.negatives"])
def test_one_side_of_a_histogram_is_refused(left_out):
    check_statistics("a", COUNTS, SIDES)
    check_statistics("a", {"train.examples": COUNTS["train.examples"]}, SIDES)  # a small group: neither side
    with pytest.raises(FederationError, match=rf"Site 'a' sent test.* without {left_out}"):
        check_statistics("a", {name: each for name, each in COUNTS.items() if name != left_out}, SIDES)


def test_noised_counts_need_the_size_of_their_noise_and_may_be_negative():
    private = {**SIDES, "test.noise": (1,)}
    noised = {**COUNTS, "test.positives": np.full((1, 4), -3), "test.noise": np.array([2])}
    check_statistics("a", noised, private)
    with pytest.raises(FederationError, match=r"without test\.noise"):
        check_statistics("a", COUNTS, private)


@pytest.mark.parametrize("name", SIDES)
def test_exact_counts_are_not_negative(name):
    with pytest.raises(FederationError, match=f"Site 'a' sent {name} with negative counts"):
        check_statistics("a", {**COUNTS, name: -COUNTS[name]}, SIDES)


arrays = st.builds(
    lambda shape, dtype, fill: np.full(shape, fill).astype(dtype),
    st.lists(st.integers(0, 4), max_size=3).map(tuple).filter(lambda shape: shape != (2, 3)),
    st.sampled_from(["<f4", "<f8", "<i8", "|u1"]),
    st.integers(0, 100),
)
named = st.dictionaries(st.sampled_from(["w", "train.loss", "validation.positives", "other"]), arrays, max_size=3)
noise = st.builds(
    lambda data, kind: ArrayRecord({PACKED: Array("uint8", (len(data),), kind, data)}),
    st.binary(max_size=80),
    st.sampled_from([SERIAL, "numpy.ndarray", "x"]),
)
records = st.one_of(named.map(pack_arrays), named.map(to_array_record), noise, st.just(ConfigRecord({"w": 1})))
answers = st.dictionaries(st.sampled_from([UPDATE, STATISTICS, "other"]), records, max_size=3).map(RecordDict)


@given(st.lists(answers, max_size=3))
def test_no_answer_ends_a_run_or_spoils_the_sum(bad):
    for aggregation in (opened(WeightedMean()), opened(RobustAggregation(coordinate_median))):
        aggregation.add("a", good())
        for answer in bad:
            with pytest.raises(FedhealthError):  # none of these is a whole update, so none may be taken
                aggregation.add("b", answer)
        found = closed(aggregation)
        assert found.sites == ("a",)
        assert np.array_equal(found.update["w"], np.ones((2, 3), np.float32))
        assert found.statistics["train.loss"].tolist() == [7]


def aggregate(values):
    return Aggregate({"w": values}, {}, SITES)


NO_RESULTS = {
    "a dict": ({"w": np.zeros((2, 3), np.float32)}, "returned dict, no Aggregate"),
    "nothing": (None, "returned NoneType, no Aggregate"),
    "no arrays": (Aggregate(None, {}, SITES), "no Aggregate"),
    "another array": (Aggregate({"v": np.zeros(1, np.float32)}, {}, SITES), "returned the array v"),
    "a shape that would be broadcast": (
        aggregate(np.zeros(1, np.float32)),
        r"w as float32\(1,\), not as float32\(2, 3\)",
    ),
    "another type": (aggregate(np.zeros((2, 3))), r"w as float64\(2, 3\)"),
    "a list": (aggregate([[0.0] * 3] * 2), "w as list"),
    "not a number": (aggregate(np.full((2, 3), np.nan, np.float32)), "w with values that are not finite"),
    "infinite": (aggregate(np.full((2, 3), np.inf, np.float32)), "w with values that are not finite"),
}


@pytest.mark.parametrize(("result", "problem"), NO_RESULTS.values(), ids=NO_RESULTS)
def test_a_result_that_is_no_update_of_the_model_is_refused_by_the_aggregations_name(result, problem):
    with pytest.raises(ConfigError, match=problem) as refused:
        check_result(WeightedMean(), result, ARRAYS)
    assert "strategies.aggregation.mean.WeightedMean" in refused.value.problem
    assert "attempt.expected" in refused.value.advice


def test_a_result_without_an_array_that_too_few_sites_train_is_an_update():
    check_result(WeightedMean(), Aggregate({}, {}, SITES), ARRAYS)
    check_result(WeightedMean(), aggregate(np.ones((2, 3), np.float32)), ARRAYS)


@pytest.mark.parametrize(
    ("result", "found"),
    [(None, "None"), (0.5, "a float"), ({"w": 1}, "a dict"), (np.ones(7), "an array"), (["x"] * 6, "a list")],
    ids=["None", "a number", "a dict", "too long", "texts"],
)
def test_a_rule_that_returns_no_vector_is_named(result, found):
    def own_rule(vectors):
        return result

    aggregation = opened(RobustAggregation(own_rule))
    for site in SITES:
        aggregation.add(site, good())
    with pytest.raises(ConfigError) as refused:
        aggregation.close(None)
    assert f"own_rule ({__file__}) returned {found}" in refused.value.problem
    assert "shape [6]" in refused.value.problem


def test_a_rule_with_other_parameters_is_told_how_it_is_called():
    def own_rule(vectors, weights):
        return vectors[0]

    with pytest.raises(OwnCodeError, match=r"own_rule \(.*\) cannot be called: missing a required argument: 'weights'"):
        apply_rule(own_rule, [np.zeros(6, np.float32)])


def test_an_error_inside_a_rule_is_told_by_its_line():
    def own_rule(vectors, factor):
        return vectors[7] * factor

    with pytest.raises(OwnCodeError, match=rf"own_rule \({__file__}, line \d+\) raised IndexError"):
        apply_rule(partial(own_rule, factor=2.0), [np.zeros(6, np.float32)])
