"""What a site sends is finite and not too long."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from clients.update_clipping import clip_update
from fedhealth.errors import ModelError
from fedhealth.models.model_state import compute_l2_norm


def clip(update, max_norm, is_private=False):
    return clip_update(update, compute_l2_norm(update), max_norm, is_private)


VALUES = arrays(np.float32, (3, 2), elements=st.floats(-1e6, 1e6, width=32))


@given(VALUES, VALUES, st.floats(1e-3, 1e3))
def test_the_direction_stays_and_the_length_is_bounded(first, second, most):
    update = {"a": first, "b": second}
    found, norm = clip(update, most)
    assert norm == compute_l2_norm(found) <= most * 1.0001
    factor = min(1.0, most / compute_l2_norm(update)) if compute_l2_norm(update) else 1.0
    np.testing.assert_allclose(found["a"], first * np.float32(factor), rtol=1e-4, atol=1e-30)


def test_without_a_bound_nothing_changes():
    update = {"a": np.full(3, 1e9, np.float32)}
    found, norm = clip(update, None)
    assert found is update
    assert norm == compute_l2_norm(update)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_is_not_sent(value):
    with pytest.raises(ModelError, match="not sent"):
        clip({"a": np.array([1.0, value], np.float32)}, None)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_under_privacy_what_is_no_number_counts_as_zero(value):
    found, norm = clip({"a": np.array([1.0, value], np.float32)}, 1.0, is_private=True)
    assert found["a"].tolist() == [0.0, 0.0]
    assert norm == 0


def test_the_largest_numbers_are_numbers():
    update = {"a": np.full(3, np.finfo(np.float32).max)}
    assert clip(update, None) == (update, pytest.approx(3**0.5 * float(np.finfo(np.float32).max)))
