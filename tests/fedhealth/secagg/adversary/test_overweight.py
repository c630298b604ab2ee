"""What one member can do to a sum by lying about itself, in the numbers of docs/threat-model.md.

Nothing in the protocol stops it: single inputs are hidden, so they cannot be checked.
"""

import numpy as np
import pytest

from fedhealth.secagg.client.quantized_store import QuantizedUpdate
from fedhealth.secagg.primitives.layout import WEIGHT_ONE
from tests.fedhealth.secagg.federation import Federation, name

N, LIAR = 5, "site-04"


def open_sum(federation, own=None):
    """Run a round in which all honest sites send zeros; `own` gives the words of the liar's quantized vectors."""
    plan = federation.plan()
    descriptor = federation.server.open_attempt(plan)
    for site in federation.ids:
        context, session = federation.accept(site, descriptor, plan), federation.sites[site]
        quantized = session.quantize(context, federation.vectors(site, context.layout))
        if site == LIAR and own:
            kept = quantized.segments.items()
            quantized = QuantizedUpdate({segment: (d, w, own(segment, words)) for segment, (d, w, words) in kept})
        federation.server.add_upload(*session.mask_upload(context, quantized), site)
    federation.server.fix_survivors()
    federation.unmask(federation.ids)
    return federation.server.open_sums().vectors


def make_federation(weight):
    towers = {name(i): {"shared": WEIGHT_ONE} for i in range(N)}
    towers[LIAR]["shared"] = weight * WEIGHT_ONE
    federation = Federation(N, towers=towers)

    def values(site, segment):
        full = 1.0 if site == LIAR else 0.0
        return {e.name: np.full(e.length, full if segment.kind == "model" else 0.0) for e in segment.entries}

    federation.values = values
    return federation


@pytest.mark.parametrize(("weight", "moved"), [(1, 0.2), (5, 5 / 9), (100, 100 / 104)])
def test_a_member_that_announces_a_larger_weight_moves_the_mean_by_as_much(weight, moved):
    opened = open_sum(make_federation(weight))
    assert opened["shared-model"]["layer.weight"][0] == pytest.approx(moved, abs=1e-6)


def test_a_member_that_masks_other_words_moves_the_mean_by_the_whole_bound():
    """Its weight is honest; its words are not those of a clipped update."""

    def forge(segment, words):
        forged = words.copy()
        if segment == "shared-model":
            forged[:5] = 2**31 - 100  # all levels, where an honest site has a fifth of them
        return forged

    assert open_sum(make_federation(1), forge)["shared-model"]["layer.weight"][0] == pytest.approx(1.0, abs=1e-3)


def test_a_member_forges_any_count():
    def forge(segment, words):
        forged = words.copy()
        if segment == "shared-statistics":
            forged[0] = 10**12
        return forged

    assert open_sum(make_federation(1), forge)["shared-statistics"]["count"][0] == 10**12
