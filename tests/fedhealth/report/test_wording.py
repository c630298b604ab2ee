import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhealth.evaluation.metrics import Estimate
from fedhealth.report import wording

NAN = float("nan")


@pytest.mark.parametrize(
    ("value", "sign", "written"),
    [(0.9254, False, "0.925"), (0.1351, True, "+0.135"), (-0.0121, True, "−0.012"), (NAN, True, "not defined")],
)
def test_numbers(value, sign, written):
    assert wording.number(value, sign=sign) == written


def test_an_interval_shows_what_is_known():
    assert wording.interval(Estimate(0.925, 0.907, 0.941)) == "0.925 [0.907,\xa00.941]"
    assert wording.interval(Estimate(0.925, NAN, NAN)) == "0.925"
    assert wording.interval(Estimate(NAN, NAN, NAN)) == "not defined"


@pytest.mark.parametrize(
    ("count", "written"),
    [
        (0, "0\xa0B"),
        (999, "999\xa0B"),
        (1000, "1.00\xa0kB"),
        (1_391_375, "1.39\xa0MB"),
        (17_240_000, "17.2\xa0MB"),
        (212_000_000, "212\xa0MB"),
        (999_999, "1.00\xa0MB"),
    ],
)
def test_bytes(count, written):
    assert wording.size(count) == written


@given(st.integers(1, 10**14))
def test_bytes_keep_three_figures(count):
    written, unit = wording.size(count).split("\xa0")
    read = float(written) * 1000 ** ("B", "kB", "MB", "GB", "TB").index(unit)
    assert math.isclose(read, count, rel_tol=0.0051)
    assert len(written.replace(".", "")) == 3 or unit in ("B", "TB")


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (0.31, "0.3 s"),
        (9.97, "10 s"),
        (59.7, "1 min 00 s"),
        (165, "2 min 45 s"),
        (11_100, "3 h 05 min"),
        (NAN, "unknown"),
    ],
)
def test_durations(seconds, written):
    assert wording.duration(seconds).replace("\xa0", " ") == written


def test_words():
    assert wording.listed([]) == ""
    assert wording.listed(["a"]) == "a"
    assert wording.listed(["a", "b", "c"], "or") == "a, b or c"
    assert wording.counted(1, "study") == "1\xa0study"
    assert wording.counted(1211, "study") == "1,211\xa0studies"
    assert wording.percent(0.004) == "<1\xa0%"
    assert wording.percent(0.305) == "30\xa0%"
