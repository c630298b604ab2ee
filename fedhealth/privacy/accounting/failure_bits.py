"""What the pattern of a run's failures can tell beyond epsilon, in bits."""

from __future__ import annotations

import math


def compute_failure_bits(bookings: int, failures: int) -> float:
    """Return log2 of the number of ways in which at most `failures` of a run's bookings can fail.

    Whether a booking fails may depend on the data without noise, so a site's failures tell at most this much outside
    epsilon; the time slot of each reply is not counted here.

    Args:
        bookings: planned, spare rounds included.
        failures: that happened, or a limit on them.

    """
    return math.log2(sum(math.comb(bookings, count) for count in range(failures + 1)))
