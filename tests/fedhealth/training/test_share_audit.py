"""The audit of a hospital's shares of the noise passes right code and catches planted bugs."""

import pytest

from benchmarks.audit_mutants import plant_mutant
from benchmarks.mutant_subject import list_failures
from benchmarks.share_mutants import SHARES, audit_shares


@pytest.mark.parametrize("settings", [{}, {"clipping": "tower"}, {"unit": "record"}, {"score_release_share": 0.0}])
def test_right_shares_pass(settings):
    assert not list_failures(audit_shares(**settings))


@pytest.mark.parametrize("mutant", SHARES)
def test_a_planted_bug_is_caught(mutant):
    with plant_mutant(SHARES[mutant]):
        assert list_failures(audit_shares())
