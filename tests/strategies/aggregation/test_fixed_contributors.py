"""The lead asks the contributors of the first sum of some words again, once others were refused, and nobody else."""

import pytest

from fedhealth.protocol.messages import DESCRIBE, EVALUATE, HANDSHAKE, TRAIN
from fedhealth.secagg.protocol.store import MemoryStore
from strategies.aggregation.fixed_contributors import FixedContributors

ALL, FIRST = ("a", "b", "c", "d"), ("a", "b", "c")


def remember(is_private, store=None):
    return FixedContributors(store or MemoryStore(), is_private=is_private)


@pytest.mark.parametrize(
    ("kind", "is_private"), [(DESCRIBE, True), (EVALUATE, True), (TRAIN, False), (DESCRIBE, False)]
)
def test_after_a_sum_that_was_neither_opened_nor_abandoned_only_its_sites_are_asked(kind, is_private):
    store = MemoryStore()
    found = remember(is_private, store)
    assert found.choose_sites(kind, ALL) == ALL
    found.record_sum(kind, "first", FIRST)
    assert found.choose_sites(kind, ALL) == ALL  # nothing was refused yet
    found.record_failure(kind, FIRST, is_abandoned=False)
    found = remember(is_private, store)  # the lead is restarted
    found.record_sum(kind, "second", ALL)
    assert found.choose_sites(kind, ALL) == FIRST
    assert found.choose_sites(HANDSHAKE, ALL) == ALL
    assert found.choose_sites(kind, ("a", "d")) == ("a",)


def test_an_abandoned_sum_binds_nobody_and_its_vector_is_masked_again_by_all():
    found = remember(is_private=True)
    found.record_sum(EVALUATE, "first", FIRST)
    found.record_failure(EVALUATE, FIRST, is_abandoned=True)
    assert found.choose_sites(EVALUATE, ALL) == ALL
    found.record_sum(EVALUATE, "first", ALL)
    found.record_failure(EVALUATE, FIRST, is_abandoned=False)
    assert found.choose_sites(EVALUATE, ALL) == ALL


def test_a_later_sum_with_others_that_was_refused_leads_back_to_the_first():
    found = remember(is_private=False)
    found.record_sum(TRAIN, "round 1", FIRST)  # opened
    found.record_sum(TRAIN, "round 2", ALL)
    found.record_failure(TRAIN, ALL, is_abandoned=True)
    assert found.choose_sites(TRAIN, ALL) == FIRST


def test_updates_that_are_drawn_anew_bind_nobody():
    found = remember(is_private=True)
    found.record_sum(TRAIN, "first", FIRST)
    found.record_failure(TRAIN, FIRST, is_abandoned=False)
    assert found.choose_sites(TRAIN, ALL) == ALL
    assert found.choose_sites(EVALUATE, ALL) == ALL
