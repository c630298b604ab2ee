"""Noised counts: possible after projection, and exact sums before it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhealth.privacy.mechanisms.noised_counts import decode_counts, encode_counts, project_to_counts


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=60))
def test_possible_counts_keep_their_sum_and_are_not_negative(values):
    found = project_to_counts(np.array(values))
    assert (found >= 0).all()
    assert found.sum() == pytest.approx(max(sum(values), 0.0), abs=1e-6)


@given(st.lists(st.floats(0, 50), min_size=1, max_size=60))
def test_what_is_possible_stays(values):
    assert project_to_counts(np.array(values)) == pytest.approx(np.array(values), abs=1e-6)


def test_rows_are_projected_one_by_one():
    rows = np.random.default_rng(0).normal(2, 5, (7, 20))
    assert np.array_equal(project_to_counts(rows), [project_to_counts(row) for row in rows])


@given(st.lists(st.integers(-(2**24), 2**24), min_size=1, max_size=20))
def test_words_of_sites_add_up_to_the_words_of_the_sum(eighths):
    values = np.array(eighths) / 8  # on the grid of the noise
    assert decode_counts(encode_counts(values) + encode_counts(values)).tolist() == (2 * values).tolist()
