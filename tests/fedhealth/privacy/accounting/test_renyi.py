"""Accounting uses Opacus' own numbers, and nothing else of Opacus."""

import subprocess
import sys

import pytest

from fedhealth.privacy.accounting import renyi


@pytest.mark.parametrize("rate", [0.01, 0.5, 1.0])
def test_the_divergences_are_those_of_opacus(rate):
    from opacus.accountants.analysis import rdp

    orders = [2, 3.5, 16, 64]
    own, theirs = (
        each.compute_rdp(q=rate, noise_multiplier=1.1, steps=3, orders=orders).tolist() for each in (renyi, rdp)
    )
    assert own == theirs
    assert renyi.get_privacy_spent(orders=orders, rdp=own, delta=1e-5) == rdp.get_privacy_spent(
        orders=orders, rdp=theirs, delta=1e-5
    )


def test_accounting_does_not_import_the_optimizers_of_opacus():
    code = "import sys, fedhealth.privacy.accounting.rdp_filter; print('opacus' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "False"
