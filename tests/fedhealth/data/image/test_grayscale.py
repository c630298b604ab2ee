import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedhealth.data.image import grayscale

FLOATS = hnp.arrays(
    np.float32, (7, 5), elements=st.floats(-1e6, 1e6, width=32) | st.sampled_from([np.nan, np.inf, -np.inf])
)


@given(FLOATS)
def test_stretch_stays_in_range_whatever_comes(values):
    with np.errstate(all="ignore"):
        unit = grayscale.stretch_contrast(values)
    finite = unit[np.isfinite(values)]
    assert ((finite >= 0) & (finite <= 1)).all()


def test_stretch_ignores_outliers_and_padding():
    values = np.linspace(0, 100, 10_000, dtype=np.float32)
    values[0] = 1e6
    padding = np.zeros(values.shape, dtype=bool)
    values[1:5000], padding[1:5000] = -2000, True
    unit = grayscale.stretch_contrast(values, padding)
    assert unit[5500] == pytest.approx(0.1, abs=0.02)
    assert unit[9500] == pytest.approx(0.9, abs=0.02)


def test_stretch_of_sparse_and_constant_frames():
    mask = np.zeros(10_000, dtype=np.float32)
    mask[:3] = 1
    assert grayscale.stretch_contrast(mask).tolist() == mask.tolist()
    assert not grayscale.stretch_contrast(np.full(9, 7, dtype=np.float32)).any()


def test_window_follows_the_standards_examples():
    # PS3.3 C.11.2.1.2: c = 2048, w = 4096 maps 0..4095 to the whole range; c = 2048, w = 1 is a threshold.
    values = np.array([0, 2047, 2048, 4095], dtype=np.float32)
    assert grayscale.apply_window(values, 2048, 4096).tolist() == pytest.approx([0, 2047 / 4095, 2048 / 4095, 1])
    assert grayscale.apply_window(values, 2048, 1).tolist() == [0, 0, 1, 1]
    assert grayscale.apply_window(values, 2048, 4096, "LINEAR_EXACT")[2] == 0.5
    assert grayscale.apply_window(values, 2048, 100, "SIGMOID").tolist() == pytest.approx([0, 0.49, 0.5, 1], abs=1e-3)


@pytest.mark.parametrize(
    ("center", "width", "function"), [(1, 0, "LINEAR_EXACT"), (1, 0.5, "LINEAR"), (1, 2, "X"), (np.nan, 9, "LINEAR")]
)
def test_an_invalid_window_is_none(center, width, function):
    assert grayscale.apply_window(np.zeros(3, dtype=np.float32), center, width, function) is None


def test_lookup_takes_the_ends_outside_the_table():
    table = np.array([10, 20, 30], dtype=np.float32)
    values = np.array([-5, 0, 1, 2, 99], dtype=np.float32)
    assert grayscale.apply_lookup_table(values, table, first=0).tolist() == [10, 10, 20, 30, 30]
    assert grayscale.apply_lookup_table(values, table, first=-1).tolist() == [10, 20, 30, 30, 30]


def test_to_whole_rounds_and_saturates():
    assert grayscale.to_integer(np.array([-1, 0, 0.5, 1, 2, np.nan], dtype=np.float32)).tolist() == [
        0,
        0,
        128,
        255,
        255,
        0,
    ]
