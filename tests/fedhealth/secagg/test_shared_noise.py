"""Noise through the real sessions: what opens has the promised noise, or nothing opens."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.stats import kstest, kurtosis

from fedhealth.privacy.mechanisms.gaussian_noise import NoiseSource
from fedhealth.privacy.mechanisms.noise_share import NoiseShare, draw_share
from fedhealth.secagg.errors import ProtocolViolationError
from fedhealth.secagg.primitives.layout import WEIGHT_ONE, make_noised_segment
from fedhealth.secagg.primitives.noise_grid import count_honest_shares
from tests.fedhealth.secagg.federation import Federation, name

NOISE = 3.0  # sigma C of the sum
LENGTH = 4000


class NoisyFederation(Federation):
    """Sites whose sums are zero: what opens is the noise alone."""

    def values(self, site, segment):
        if segment.kind != "noised":
            return super().values(site, segment)
        share = NoiseShare(segment.share_std, segment.entries[0].step, segment.entries[0].bound, segment.shares)
        return {e.name: draw_share(torch.zeros(e.length), share, NoiseSource()) for e in segment.entries}

    def noised(self, tower="shared", bits=24, threshold=None):
        found = self.lead.thresholds
        owners = sum(tower in towers for towers in self.towers.values())
        honest = count_honest_shares(owners, self.n, threshold or found.threshold, found.colluders, found.min_owners)
        layers = {"w": LENGTH}
        return make_noised_segment(tower, tower, layers, noise_std=NOISE, shares=honest, bits=bits, sites=self.n)


def check_noise(found, segment, survivors, colluders):
    """The opened sum has the variance of all survivors' shares, and those of the honest ones are enough."""
    expected = survivors * segment.share_std**2 * (1 + segment.entries[0].step ** 2 / 12 / segment.share_std**2)
    assert abs(found.var() / expected - 1) < 4.5 * math.sqrt(2 / LENGTH)
    assert (survivors - colluders) * segment.share_std**2 >= NOISE**2 * (1 - 1e-9)
    assert abs(kurtosis(found)) < 4.5 * math.sqrt(24 / LENGTH)
    spread = (
        found + np.random.default_rng(0).uniform(-0.5, 0.5, LENGTH) * segment.entries[0].step
    )  # between grid points
    assert kstest(spread / math.sqrt(expected), "norm").pvalue > 1e-4


CASES = [(n, drop, bits) for n in range(3, 9) for drop, bits in itertools.product(range(3), (16, 24, 32))]


@pytest.mark.parametrize(("n", "drop", "bits"), [c for c in CASES if c[2] == 24 or c[0] in (4, 8)])
def test_the_opened_sum_has_the_noise_of_all_survivors_and_never_less_than_promised(n, drop, bits):
    federation = NoisyFederation(n)
    segment = federation.noised(bits=bits)
    plan = federation.plan(layout=(segment,))
    survivors = federation.ids[: n - drop]
    if len(survivors) < federation.lead.thresholds.threshold:
        with pytest.raises(ProtocolViolationError, match="fewer than"):
            federation.round(plan, survivors, survivors)
        return
    opened = federation.round(plan, survivors, survivors)
    check_noise(opened.vectors["shared"]["w"], segment, len(survivors), federation.lead.thresholds.colluders)


@pytest.mark.parametrize("drop", [0, 1])
def test_a_tower_of_some_hospitals_has_its_own_shares(drop):
    towers = {name(i): {"shared": WEIGHT_ONE} | ({"image": WEIGHT_ONE} if i >= 1 else {}) for i in range(5)}
    federation = NoisyFederation(5, towers)
    segments = (federation.noised("image"), federation.noised("shared"))
    assert segments[0].shares < segments[1].shares
    survivors = federation.ids[: 5 - drop]
    opened = federation.round(federation.plan(layout=segments), survivors, survivors)
    for segment, owners in zip(segments, (4 - drop, 5 - drop), strict=True):
        check_noise(opened.vectors[segment.name]["w"], segment, owners, federation.lead.thresholds.colluders)


def test_one_who_drops_after_the_upload_is_in_the_sum():
    federation = NoisyFederation(5)
    segment = federation.noised()
    opened = federation.round(federation.plan(layout=(segment,)), federation.ids, federation.ids[:4])
    check_noise(opened.vectors["shared"]["w"], segment, 5, federation.lead.thresholds.colluders)


@pytest.mark.parametrize(("n", "signed"), [(4, False), (6, False), (8, True), (12, True), (20, True)])
def test_the_survivors_sign_their_list_where_two_lists_would_split_the_noise(n, signed):
    federation = NoisyFederation(n)
    federation.server.open_attempt(federation.plan(layout=(federation.noised(),)))
    assert federation.server.context.descriptor.signed is signed
    everybody = federation.plan(exchange=2, layout=(federation.noised(threshold=n),), threshold=n)
    federation.server.open_attempt(everybody)
    assert not federation.server.context.descriptor.signed  # every list is the whole cohort


def test_a_site_refuses_an_attempt_that_leaves_the_signatures_out(monkeypatch):
    federation = NoisyFederation(8)
    plan = federation.plan(layout=(federation.noised(),))
    with monkeypatch.context() as patch:
        patch.setattr("fedhealth.secagg.protocol.rules.attempt_needs_signatures", lambda *_: False)
        descriptor = federation.server.open_attempt(plan)
    with pytest.raises(ProtocolViolationError, match="signed survivor lists"):
        federation.accept(name(0), descriptor, plan)


def test_a_tower_with_too_few_shares_among_the_survivors_stays_closed():
    """The owners that are missing may all own one tower: it is then not opened with less noise."""
    towers = {name(i): {"shared": WEIGHT_ONE} | ({"image": WEIGHT_ONE} if i < 4 else {}) for i in range(6)}
    federation = NoisyFederation(6, towers)
    claimed = make_noised_segment("image", "image", {"w": 10}, noise_std=NOISE, shares=4, bits=24, sites=6)
    plan = federation.plan(layout=(claimed, federation.noised()))  # a lead that counts on four honest owners of four
    federation.server.open_attempt(plan)
    assert [segment.name for segment in federation.server.context.layout] == ["shared"]


def test_no_draw_is_in_two_opened_sums():
    """The same words are masked again only as long as at most one of the attempts can open."""
    federation = NoisyFederation(4)
    plan = federation.plan(layout=(federation.noised(),))
    federation.round(plan, federation.ids, federation.ids)
    repeated = federation.plan(exchange=2, layout=plan.layout, vector=plan.vector, model_digest=plan.model_digest)
    descriptor = federation.server.open_attempt(repeated)
    with pytest.raises(ProtocolViolationError, match="already answered"):
        federation.accept(name(0), descriptor, repeated)


def test_hospitals_that_restart_between_upload_and_unmasking_open_the_same_draw_once():
    federation = NoisyFederation(4)
    plan = federation.plan(layout=(federation.noised(),))
    federation.collect(plan, federation.ids)
    federation.server.fix_survivors()
    for site in federation.ids:
        federation.restart(site)
    federation.unmask(federation.ids)
    opened = federation.server.open_sums()
    check_noise(opened.vectors["shared"]["w"], plan.layout[0], 4, federation.lead.thresholds.colluders)
    repeated = federation.plan(exchange=2, layout=plan.layout, vector=plan.vector, model_digest=plan.model_digest)
    descriptor = federation.server.open_attempt(repeated)
    for site in federation.ids:
        with pytest.raises(ProtocolViolationError, match="already answered"):
            federation.accept(site, descriptor, repeated)


def test_a_hospital_that_restarts_before_it_masked_cannot_mask_that_attempt():
    """A crash loses the attempt, never the rule that a draw is in one sum."""
    federation = NoisyFederation(4)
    plan = federation.plan(layout=(federation.noised(),))
    descriptor = federation.server.open_attempt(plan)
    context = federation.accept(name(0), descriptor, plan)
    session = federation.restart(name(0))
    quantized = session.quantize(context, federation.vectors(name(0), context.layout))
    with pytest.raises(ProtocolViolationError, match="not accepted here"):
        session.mask_upload(context, quantized)
