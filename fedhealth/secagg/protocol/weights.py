"""Publicly announced weights: coarse enough to hide a site's size, exact enough for averaging."""

import math
from typing import Literal

from fedhealth.errors import SecureAggregationError
from fedhealth.secagg.primitives.layout import WEIGHT_ONE

WeightScheme = Literal["bucket", "uniform", "exact"]
# With a hundred sites at this weight the total still fits 63 bits.
MAX_EXAMPLES = 2**38


def compute_announced_weight(examples: int, scheme: WeightScheme = "bucket") -> int:
    """Return the public weight of a site, in multiples of 2^-16; zero examples weigh nothing.

    Args:
        examples: patients or examples behind the update.
        scheme: "bucket" rounds to the nearest power of sqrt(2), "uniform" always returns 1, "exact" reveals the number.

    """
    if not 0 <= examples <= MAX_EXAMPLES:
        raise SecureAggregationError(f"{examples} examples cannot be announced as a weight")
    if examples == 0:
        return 0
    if scheme == "uniform":
        return WEIGHT_ONE
    if scheme == "exact":
        return examples * WEIGHT_ONE
    power = round(2 * math.log2(examples))
    # floor(2^(power/2) * 2^16) in integers: the same on every machine.
    return math.isqrt(2 ** (power + 32))
