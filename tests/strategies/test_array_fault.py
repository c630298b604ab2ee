import numpy as np
import pytest

from strategies.array_fault import ArrayFault, find_array_fault

FLOAT = np.dtype(np.float32)


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        (np.zeros((2, 3), np.float32), None),
        (np.zeros((3, 2), np.float32), ArrayFault.form),
        (np.zeros((2, 3)), ArrayFault.form),
        ([[0.0] * 3] * 2, ArrayFault.form),
        (None, ArrayFault.form),
        (np.full((2, 3), np.nan, np.float32), ArrayFault.values),
        (np.full((2, 3), np.inf, np.float32), ArrayFault.values),
    ],
)
def test_type_form_and_values_are_checked(given, fault):
    assert find_array_fault(given, (2, 3), FLOAT) is fault


def test_whole_numbers_are_finite():
    assert find_array_fault(np.ones(2, np.int64), (2,), np.dtype(np.int64)) is None
