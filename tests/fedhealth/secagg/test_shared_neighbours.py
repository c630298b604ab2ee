"""Neighbouring data through the whole path: what the opened sum tells about one patient, to a lead with a colluder.

A patient's clipped gradient is in one hospital's sum or not; shares are drawn, rounded, masked and opened. The lead
subtracts what its colluding hospital added. What is left tells the two apart no better than the Gaussian mechanism that
is booked (mu = 1 / noise multiplier), and no worse: exactly h shares are left in the smallest sum.
"""

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm

from fedhealth.privacy.mechanisms import noise_share
from fedhealth.privacy.mechanisms.gaussian_noise import NoiseSource
from fedhealth.privacy.mechanisms.noise_share import NoiseShare, draw_share
from fedhealth.secagg.errors import ProtocolViolationError
from fedhealth.secagg.primitives.layout import make_noised_segment
from fedhealth.secagg.primitives.noise_grid import count_honest_shares
from tests.fedhealth.secagg.federation import Federation, name

MULTIPLIER, BOUND = 3.0, 1.0
BLOCKS, WIDTH = 15_000, 3  # trials in one sum, each with a patient of its own
COLLUDER, VICTIM = name(1), name(0)


class NeighbouringFederation(Federation):
    """Hospitals whose sums hold other patients; the victim's also holds one patient in each block, or none."""

    is_present = False

    def values(self, site, segment):
        generator = np.random.default_rng([7, self.ids.index(site)])
        total = generator.normal(0.0, 2.0, (BLOCKS, WIDTH))
        if site == VICTIM and self.is_present:
            total += BOUND * DIRECTIONS
        entry = segment.entries[0]
        share = NoiseShare(segment.share_std, entry.step, entry.bound, segment.shares)
        words = {
            e.name: draw_share(
                torch.from_numpy(total.ravel()) if e.name == "w" else torch.zeros(e.length), share, NoiseSource()
            )
            for e in segment.entries
        }
        if site == COLLUDER:
            self.known = words["w"] * entry.step
        return words


def draw_directions():
    found = np.random.default_rng(0).normal(size=(BLOCKS, WIDTH))
    return found / np.linalg.norm(found, axis=1, keepdims=True)


DIRECTIONS = draw_directions()


@pytest.mark.parametrize(("drop", "shares"), [(1, 2), (0, 3)])
def test_the_opened_sum_tells_no_more_about_a_patient_than_is_booked(drop, shares):
    """Four hospitals of which one colludes: with one missing, the shares of two honest ones are all that protects."""
    federation, projected = NeighbouringFederation(4), []
    thresholds = federation.lead.thresholds
    honest = count_honest_shares(4, 4, thresholds.threshold, thresholds.colluders, thresholds.min_owners)
    layers, std = {"w": BLOCKS * WIDTH}, MULTIPLIER * BOUND
    segment = make_noised_segment("shared", "shared", layers, noise_std=std, shares=honest, bits=24, sites=4)
    for exchange, present in enumerate((False, True), 1):
        federation.is_present = present
        survivors = federation.ids[: 4 - drop]
        opened = federation.round(federation.plan(exchange, layout=(segment,)), survivors, survivors)
        left = opened.vectors["shared"]["w"] - federation.known
        projected.append((left.reshape(BLOCKS, WIDTH) * DIRECTIONS).sum(1))
    off = projected[1] - projected[0]  # the other patients are the same in both
    mu = off.mean() / (off.std() / math.sqrt(2))
    claimed = 1 / MULTIPLIER
    error = math.sqrt(2 / BLOCKS) * math.hypot(1, mu / 2)
    assert abs(mu - claimed * math.sqrt(honest / shares)) < 4.5 * error
    assert mu < claimed + 4.5 * error
    # and the best single threshold guesses no better than the mechanism allows
    guessed = (off > 0).mean()
    assert guessed < norm.cdf(claimed / math.sqrt(2)) + 4.5 / math.sqrt(4 * BLOCKS)


def test_a_share_with_less_noise_fails_this_test(monkeypatch):
    def draw_less(total, share, source):
        noise = noise_share.draw_share(torch.zeros_like(total), share, source)
        return np.rint(total.numpy() / share.step + 0.7 * noise).astype(np.int64)

    monkeypatch.setattr("tests.fedhealth.secagg.test_shared_neighbours.draw_share", draw_less)
    with pytest.raises(AssertionError):
        test_the_opened_sum_tells_no_more_about_a_patient_than_is_booked(1, 2)


def test_a_sum_that_counts_on_the_colluder_is_not_opened(monkeypatch):
    module = "tests.fedhealth.secagg.test_shared_neighbours.count_honest_shares"
    monkeypatch.setattr(module, lambda owners, *_: owners)
    with pytest.raises(ProtocolViolationError):
        test_the_opened_sum_tells_no_more_about_a_patient_than_is_booked(1, 2)
