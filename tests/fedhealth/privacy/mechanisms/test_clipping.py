import pytest

from fedhealth.errors import PrivacyError
from fedhealth.privacy.mechanisms.clipping import Clipping


@pytest.mark.parametrize("bound", [0, -1, float("nan"), float("inf"), 1e19])
def test_a_bound_that_no_sum_could_keep_is_refused(bound):
    """Above 1e18 a sum of clipped gradients could overflow, for some patients and not for others."""
    with pytest.raises(PrivacyError, match="not a number above 0 and up to 1e"):
        Clipping(bound)
    Clipping(1e18)
