import pytest
import torch

from fedhealth.errors import PrivacyError
from fedhealth.privacy.mechanisms.clipping import SMALLEST_BOUND, Clipping


@pytest.mark.parametrize("bound", [0, -1, float("nan"), float("inf"), 1e19, 4e-38, 1e-20, 9e-10])
def test_a_bound_that_no_sum_could_keep_is_refused(bound):
    """Above 1e18 a sum of clipped gradients could overflow, for some patients and not for others.

    Far below 1e-9 the squares of a gradient's values vanish in float32: its norm is then larger than what is clipped.
    """
    with pytest.raises(PrivacyError, match="not a number from 1e-09 to 1e"):
        Clipping(bound)
    Clipping(1e18)


def test_no_square_vanishes_at_the_smallest_bound():
    """Values whose squares are lost add up to far less than the bound, also in ten billion parameters."""
    lost = float(torch.finfo(torch.float32).smallest_normal) ** 0.5
    assert lost * 1e10**0.5 < 1e-4 * SMALLEST_BOUND
    vector = torch.full((1000,), SMALLEST_BOUND)
    factors = Clipping(SMALLEST_BOUND).compute_factors(vector.square().sum().reshape(1, 1))
    assert float((vector * factors).double().norm()) <= SMALLEST_BOUND
