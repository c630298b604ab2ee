"""The audit of a hospital's shares of the noise passes right code and catches planted bugs."""

import pytest

from benchmarks.audit_mutants import plant_mutant
from benchmarks.mutants.shares import SHARES, audit_shares
from benchmarks.mutants.subject import list_failures

SUBSET = (  # `make audit-mutants` plants them all
    "share by t",
    "clamped after the noise",
    "rounded before the noise",
    "counts projected at the site",
    "a kept draw of shares used again",
    "patients drawn with twice the booked rate",
)


@pytest.mark.parametrize("settings", [{}, {"unit": "record", "clipping": "tower"}])
def test_right_shares_pass(settings):
    assert not list_failures(audit_shares(**settings))


@pytest.mark.parametrize("mutant", SUBSET)
def test_a_planted_bug_is_caught(mutant):
    with plant_mutant(SHARES[mutant]):
        assert list_failures(audit_shares())
