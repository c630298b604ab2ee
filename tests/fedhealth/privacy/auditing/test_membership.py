"""The membership test finds memorised losses."""

import numpy as np
import pytest

from fedhealth.errors import PrivacyError
from fedhealth.privacy.auditing.membership import compute_binomial_pmf, run_membership_test


def test_binomial_probabilities():
    assert compute_binomial_pmf(3, 0.5) == pytest.approx([1 / 8, 3 / 8, 3 / 8, 1 / 8])
    assert compute_binomial_pmf(400, 0.3).sum() == pytest.approx(1.0)
    assert list(compute_binomial_pmf(2, 0.0)) == [1, 0, 0]
    assert list(compute_binomial_pmf(2, 1.0)) == [0, 0, 1]


def test_membership_test_tells_memorised_losses():
    rng = np.random.default_rng(0)
    others = rng.normal(1.0, 0.3, 400)
    assert run_membership_test(rng.normal(1.0, 0.3, 400), others, 8.0, 1e-5).found < 0.6
    leaked = run_membership_test(rng.normal(0.1, 0.3, 400), others, 1.0, 1e-5)
    assert leaked.found > 1.5
    assert not leaked.is_consistent


def test_membership_test_needs_patients():
    with pytest.raises(PrivacyError, match="at least 4 members and 4 others, not 3 and 9"):
        run_membership_test(np.zeros(3), np.zeros(9), 1.0, 1e-5)
