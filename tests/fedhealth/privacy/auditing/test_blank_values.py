"""Blank values show the noise of opened sums: right noise passes, a missing or a small share does not."""

import math

import numpy as np
import pytest

from fedhealth.errors import PrivacyError
from fedhealth.privacy.auditing.blank_values import add_blanks, audit_blanks, measure_blanks
from strategies.noise_watch import NoiseWatch

OWNERS, STD, STEP = 4, 0.7, 2.0**-5
ROUNDS, VALUES = 40, 256


def open_sums(seed=0, owners=OWNERS, std=STD, change=lambda shares: shares, rounds=ROUNDS):
    """Return the blanks of several sums, of which each owner's share is changed before it is rounded."""
    generator = np.random.default_rng(seed)
    for _ in range(rounds):
        shares = change(generator.normal(0.0, std, (owners, VALUES)))
        yield {"image": measure_blanks((np.rint(shares / STEP) * STEP).sum(0), OWNERS, STD, STEP)}


def check_all(watch, sums):
    for number, blanks in enumerate(sums, 1):
        watch.check_sum(number, blanks)


def list_failures(found):
    return [each.name for each in audit_blanks(add_blanks(list(found))) if not each.passed]


@pytest.mark.parametrize("seed", range(20))
def test_right_noise_passes(seed):
    assert not list_failures(open_sums(seed))


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("one hospital adds nothing", {"owners": OWNERS - 1}),
        ("half the variance", {"std": STD / math.sqrt(2)}),
        ("too much noise", {"std": 1.1 * STD}),
        ("cut at two deviations", {"change": lambda shares: shares.clip(-2 * STD, 2 * STD)}),
        ("moved", {"change": lambda shares: shares + 0.05 * STD}),
        ("one key for all", {"change": lambda shares: np.repeat(shares[:1], OWNERS, 0)}),
    ],
)
def test_wrong_noise_fails(name, wrong):
    assert list_failures(open_sums(**wrong))


def test_values_that_never_repeat_their_size_have_no_gaussian_tails():
    uniform = {"change": lambda shares: np.random.default_rng(3).uniform(-1, 1, shares.shape) * STD * math.sqrt(3)}
    assert any("tails" in name for name in list_failures(open_sums(**uniform, rounds=400)))


def test_the_lead_stops_a_run_in_which_one_hospital_adds_nothing():
    told = []
    watch = NoiseWatch(lambda kind, **fields: told.append((kind, fields)))
    with pytest.raises(PrivacyError, match="a hospital adds less than its part"):
        check_all(watch, open_sums(owners=OWNERS - 1))
    assert 3 <= len(told) <= 12  # 40 m^2 values show it with certainty
    assert told[0] == ("noise_measured", {"round": 1, "blanks": told[0][1]["blanks"]})


@pytest.mark.parametrize("seed", range(5))
def test_the_lead_lets_right_noise_go_on(seed):
    watch = NoiseWatch(lambda kind, **fields: None)
    check_all(watch, open_sums(seed, rounds=100))
    watch.check_sum(101, {})
