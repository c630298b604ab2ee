"""Counts of patients are rounded down to 1, 2 or 5 times a power of ten."""

from hypothesis import given
from hypothesis import strategies as st

from fedhealth.site.run_history import round_count_down


@given(st.integers(1, 10**9))
def test_a_count_is_rounded_down_by_less_than_sixty_per_cent(count):
    found = round_count_down(count)
    assert found <= count < 2.5 * found
    assert str(found).rstrip("0") in ("1", "2", "5")


def test_nobody_stays_nobody():
    assert round_count_down(0) == 0
