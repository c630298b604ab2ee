"""Times as people read them; one that a damaged file holds is shown as such."""

import math

import pytest

from fedhealth.utils.time_text import format_time


def test_a_time_is_in_utc():
    assert format_time(1_769_851_800) == "2026-01-31 09:30:00 UTC"


@pytest.mark.parametrize("seconds", [math.nan, math.inf, -math.inf, 1e300, -1e300, 2.0**52])
def test_an_impossible_time_is_shown_as_one(seconds):
    assert format_time(seconds) == f"an impossible time ({seconds:g} s)"
