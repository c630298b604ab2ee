"""The weighted mean is exact, independent of order, and refuses what does not fit."""

import gc
import weakref

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from fedhealth.errors import FederationError
from fedhealth.flower.compat import set_task_identity
from fedhealth.protocol.array_codec import PACKED, pack_arrays
from fedhealth.protocol.messages import STATISTICS, UPDATE, Directive, compute_message_size
from strategies.aggregation.base import RoundAttempt
from strategies.aggregation.mean import WeightedMean

DIRECTIVE = Directive("run", "digest", 1, 1, 0, ("a", "b", "c"))


def opened(arrays, weights):
    """A round in which every site owns the shared part with its weight, unless a weight says more."""
    weights = {site: w if isinstance(w, dict) else {"shared": w} for site, w in weights.items()}
    aggregation = WeightedMean()
    aggregation.open(RoundAttempt("train.fit", DIRECTIVE, arrays, arrays, {"n": (1,)}, weights))
    return aggregation


def answer(values, **statistics):
    content = RecordDict({STATISTICS: pack_arrays({name: np.array(v, np.int64) for name, v in statistics.items()})})
    content[UPDATE] = pack_arrays({"w": np.asarray(values, np.float32)})
    return content


def mean_of(answers, weights, order):
    size = len(next(iter(answers.values())))
    aggregation = opened({"w": np.zeros(size, np.float32)}, weights)
    for site in order:
        aggregation.add(site, answer(answers[site], n=[1]))
    return aggregation.close(lambda kind, questions: iter(()))


values = st.floats(-100, 100, width=32)


@given(st.lists(values, min_size=3, max_size=3), st.lists(st.integers(1, 10_000), min_size=3, max_size=3))
def test_it_is_the_weighted_mean(sites, weights):
    answers = {name: [value] for name, value in zip("abc", sites, strict=True)}
    result = mean_of(answers, dict(zip("abc", map(float, weights), strict=True)), "abc")
    expected = np.average(np.array(sites, np.float64), weights=weights)
    assert result.update["w"][0] == pytest.approx(expected, rel=1e-6, abs=1e-6)
    assert result.statistics["n"].tolist() == [3]


def test_the_order_of_answers_does_not_change_a_bit():
    generator = np.random.default_rng(0)
    answers = {site: generator.standard_normal(100_000) for site in "abc"}
    weights = {"a": 17.0, "b": 1234.0, "c": 3.0}
    first = mean_of(answers, weights, "abc").update["w"]
    assert np.array_equal(first, mean_of(answers, weights, "cab").update["w"])


def test_a_site_that_is_silent_does_not_count():
    result = mean_of({"a": [2.0], "b": [4.0], "c": [100.0]}, {"a": 1.0, "b": 1.0, "c": 5.0}, "ab")
    assert result.update["w"][0] == pytest.approx(3.0)
    assert result.sites == ("a", "b")


GARBAGE = RecordDict({UPDATE: ConfigRecord({PACKED: b"no header"})})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (RecordDict({UPDATE: pack_arrays({"v": np.zeros(2, np.float32)})}), "other arrays"),
        (RecordDict({UPDATE: pack_arrays({"w": np.zeros(3, np.float32)})}), r"float32\(3,\)"),
        (RecordDict({UPDATE: pack_arrays({"w": np.zeros(2, np.float64)})}), "float64"),
        (answer([np.nan, 0]), "nan"),
        (answer([0, np.inf]), "inf"),
        (answer([0, -3e38]), "3e"),
        (GARBAGE, "cannot be read"),
    ],
)
def test_what_does_not_fit_is_refused_whole(content, message):
    aggregation = opened({"w": np.zeros(2, np.float32)}, {"a": 1.0, "b": 1.0})
    with pytest.raises(FederationError, match=message):
        aggregation.add("a", content)
    aggregation.add("b", answer([1, 2]))
    assert aggregation.close(lambda kind, questions: iter(())).update["w"].tolist() == [1.0, 2.0]


def test_an_answer_is_forgotten_at_once():
    """No reference cycle holds 47 MB until the garbage collector comes by."""
    aggregation = opened({"w": np.zeros(2, np.float32)}, {"a": 1.0})
    content = answer([1, 2], n=[1])
    held = weakref.ref(content[UPDATE])
    set_task_identity(1, 0)
    gc.disable()
    try:
        aggregation.add("a", content)
        assert compute_message_size(Message(content, 1, "train")) > 0
        del content
        assert held() is None
    finally:
        gc.enable()


def test_nobody_answers_twice_or_uninvited():
    aggregation = opened({"w": np.zeros(1, np.float32)}, {"a": 1.0})
    aggregation.add("a", answer([1]))
    for site in ("a", "stranger"):
        with pytest.raises(FederationError, match="twice or was not requested"):
            aggregation.add(site, answer([1]))


def test_without_any_answer_there_is_no_model():
    with pytest.raises(FederationError, match="No site replied"):
        opened({"w": np.zeros(1, np.float32)}, {"a": 1.0}).close(lambda kind, questions: iter(()))


def test_a_site_without_notes_does_not_dilute_the_text_tower():
    names = ("towers.text.encoder.w", "towers.text.missing.weight", "fusion.w")
    arrays = {name: np.zeros(1, np.float32) for name in names}
    aggregation = opened(arrays, {"a": {"shared": 1.0, "text": 3.0}, "b": {"shared": 1.0}})
    for site, value in (("a", 2.0), ("b", 4.0)):
        aggregation.add(
            site, RecordDict({UPDATE: pack_arrays({name: np.array([value], np.float32) for name in names})})
        )
    update = aggregation.close(lambda kind, questions: iter(())).update
    assert [update[name].item() for name in names] == pytest.approx([2.0, 3.0, 3.0])


def test_a_tower_that_nobody_can_train_is_left_out():
    arrays = {"towers.text.encoder.w": np.zeros(1, np.float32), "fusion.w": np.zeros(1, np.float32)}
    aggregation = opened(arrays, {"a": {"shared": 1.0}})
    aggregation.add("a", RecordDict({UPDATE: pack_arrays({name: np.ones(1, np.float32) for name in arrays})}))
    assert set(aggregation.close(lambda kind, questions: iter(())).update) == {"fusion.w"}
