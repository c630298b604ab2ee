import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fedhealth.evaluation.metrics import Estimate
from fedhealth.report import wording

NAN = float("nan")


@pytest.mark.parametrize(
    ("value", "sign", "written"),
    [(0.9254, False, "0.925"), (0.1351, True, "+0.135"), (-0.0121, True, "−0.012"), (NAN, True, "not defined")],
)
def test_numbers(value, sign, written):
    assert wording.format_number(value, sign=sign) == written


def test_an_interval_shows_what_is_known():
    assert wording.format_estimate(Estimate(0.925, 0.907, 0.941)) == "0.925 [0.907,\xa00.941]"
    assert wording.format_estimate(Estimate(0.925, NAN, NAN)) == "0.925"
    assert wording.format_estimate(Estimate(NAN, NAN, NAN)) == "not defined"


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
        (999.6, "1.00\xa0kB"),
        (9_994, "9.99\xa0kB"),
        (9_996, "10.0\xa0kB"),
        (99_949, "99.9\xa0kB"),
        (99_951, "100\xa0kB"),
        (999_499, "999\xa0kB"),
        (999_500, "1.00\xa0MB"),
        (9_995_001_000, "10.0\xa0GB"),
        (10**15, "1000\xa0TB"),
    ],
)
def test_bytes(count, written):
    assert wording.format_bytes(count) == written


@given(st.integers(1, 10**14))
@example(9_996)
@example(99_951)
@example(999_500)
@example(99_960_000_000)
def test_bytes_keep_three_figures(count):
    written, unit = wording.format_bytes(count).split("\xa0")
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
    assert wording.format_duration(seconds).replace("\xa0", " ") == written


def test_words():
    assert wording.join_words([]) == ""
    assert wording.join_words(["a"]) == "a"
    assert wording.join_words(["a", "b", "c"], "or") == "a, b or c"
    assert wording.format_count(1, "study") == "1\xa0study"
    assert wording.format_count(1211, "study") == "1,211\xa0studies"
    assert wording.format_percent(0.004) == "<1\xa0%"
    assert wording.format_percent(0.305) == "30\xa0%"
