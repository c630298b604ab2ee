"""A site's files under secure aggregation: rounds that were never opened displace nothing that counts."""

import numpy as np
import pytest

from clients.site_store import SiteStore
from fedhealth.errors import RequestMismatchError


def save(store, repetition, opened=()):
    store.save_round(repetition, f"source {repetition}", {"w": np.full(1, repetition, np.float32)}, "", opened)


def load(store, *history):
    """Return how many rounds of the history, newest first, left nothing, and whose arrays count."""
    missed, arrays = store.load_round([(repetition, f"source {repetition}") for repetition in history])
    return missed, int(arrays["w"][0]) if arrays else 0


@pytest.fixture(name="store")
def store_(tmp_path):
    return SiteStore("run", tmp_path)


def test_other_rounds_displace_no_opened_one(store):
    save(store, 1)
    save(store, 2, opened=[1])
    for repetition in range(3, 20):
        save(store, repetition, opened=[1, 2])
    assert load(store, 2, 1) == (0, 2)
    assert load(store, 1) == (0, 1)
    for repetition in range(20, 40):  # also while an older history goes on
        save(store, repetition, opened=[1, 2])
    assert load(store, 2, 1) == (0, 2)


def test_older_arrays_do_not_take_the_place_of_deleted_ones(store):
    """The site does not know yet that round 2 is opened: its link comes with the next request."""
    save(store, 1)
    save(store, 2, opened=[1])
    assert load(store, 1) == (0, 1)
    for repetition in range(3, 9):
        save(store, repetition, opened=[1])
    with pytest.raises(RequestMismatchError):
        load(store, 2, 1)
    with pytest.raises(RequestMismatchError):
        load(store, 100, 2, 1)
    assert load(store, 1) == (0, 1)
    assert load(store, 8, 1) == (0, 8)


def test_a_round_without_this_site_leaves_nothing_to_miss(store):
    save(store, 1)
    assert load(store, 3, 2, 1) == (2, 1)
    assert load(store, 3, 2) == (0, 0)


def test_the_number_of_kept_arrays_is_bounded(store, tmp_path):
    for repetition in range(1, 30):
        save(store, repetition, opened=range(1, repetition, 2))
    assert len(list(tmp_path.glob("private.*"))) == 8


def test_an_unreleased_round_never_counts_also_after_it_is_deleted(tmp_path):
    released = {""}
    store = SiteStore("run", tmp_path, released.__contains__)
    save(store, 1)
    store.save_round(2, "source 2", {"w": np.full(1, 2, np.float32)}, "interrupted")
    for repetition in range(3, 9):
        save(store, repetition, opened=[1])
    assert load(store, 2, 1) == (1, 1)
