"""Which round is exported, and when training ends early."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhealth.config.schema import Select
from strategies.selection import RoundSelection, find_best_round

SCORES = st.dictionaries(st.integers(0, 30), st.floats(0, 1))


@given(SCORES)
def test_the_best_round_is_a_trained_one_and_the_earliest_of_equals(scores):
    found = find_best_round(scores)
    trained = {number: score for number, score in scores.items() if number > 0}
    assert (found is None) == (not trained)
    if found is not None:
        assert trained[found] == max(trained.values())
        assert all(score < trained[found] for number, score in trained.items() if number < found)


@pytest.mark.parametrize(
    ("select", "scores", "chosen"),
    [
        (Select.best, {1: 0.7, 2: 0.9, 3: 0.8}, 2),
        (Select.best, {0: 0.99, 2: 0.7, 3: 0.8}, 3),  # the untrained model is no choice
        (Select.best, {1: 0.9, 2: 0.8}, 3),  # the last round has no score: nothing says that it is worse
        (Select.best, {}, 3),
        (Select.last, {1: 0.7, 2: 0.9, 3: 0.8}, 3),
    ],
)
def test_the_rule_chooses_a_round(select, scores, chosen):
    assert RoundSelection(select).choose_round(3, scores) == chosen


def test_training_ends_after_rounds_without_a_better_score():
    rule = RoundSelection(Select.best, patience=2)
    assert not rule.is_over({0: 0.5, 1: 0.6})
    assert not rule.is_over({1: 0.6, 2: 0.5})
    assert rule.is_over({1: 0.6, 2: 0.5, 3: 0.6})
    assert not rule.is_over({1: 0.6, 2: 0.5, 3: 0.7})
    assert not rule.is_over({})
    assert not RoundSelection(Select.best).is_over({1: 0.6, 2: 0.5, 3: 0.6})


def test_it_is_said_where_no_round_has_a_score():
    assert "validation rows" in RoundSelection(Select.best).explain_missing_scores({})
    assert not RoundSelection(Select.best).explain_missing_scores({3: 0.5})
    assert not RoundSelection(Select.last).explain_missing_scores({})
