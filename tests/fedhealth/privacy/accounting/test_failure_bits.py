import pytest

from fedhealth.privacy.accounting.failure_bits import compute_failure_bits


@pytest.mark.parametrize(
    ("bookings", "failures", "bits"), [(15, 0, 0.0), (15, 3, 9.17), (3, 1, 2.0), (4, 4, 4.0), (0, 0, 0.0)]
)
def test_bits_count_the_patterns_of_failures(bookings, failures, bits):
    """Three failures in fifteen rounds: 1 + 15 + 105 + 455 patterns."""
    assert compute_failure_bits(bookings, failures) == pytest.approx(bits, abs=0.01)
