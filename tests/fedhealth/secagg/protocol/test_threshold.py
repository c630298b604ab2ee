import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhealth.secagg.errors import ProtocolViolationError
from fedhealth.secagg.protocol.threshold import (
    ThresholdPolicy,
    Thresholds,
    compute_smallest_split,
    compute_smallest_tower_split,
    compute_thresholds,
    needs_signatures,
)


def lists(reader: int, owners: int, omissions: int):
    """What a lying lead may tell a reader: any omission of honest owners but the reader."""
    others = [site for site in range(owners) if site != reader]
    return itertools.chain.from_iterable(itertools.combinations(others, r) for r in range(omissions + 1))


def can_isolate(readers: int, owners: int, size: int, omissions: int, needed: int) -> bool:
    """Try every combination of lists told to every reader: does one open the sum of owners 0..size-1 alone?

    A share counter of three bits per secret, all in one integer; the reachable counters are grown reader by reader.
    Needed: shares of each own mask, and of each mask across the cut, from one of its two dealers.
    """
    inside, outside = range(size), range(size, owners)
    pairs = [pair for i in inside for j in outside for pair in ((i, j), (j, i))]
    shift = {secret: 3 * place for place, secret in enumerate([*inside, *pairs])}
    states = np.zeros(1, np.int64)
    for reader in range(readers):
        gains = set()
        for out in lists(reader, owners, omissions):
            own = sum(1 << shift[i] for i in inside if i not in out)
            gains.add(own + sum(1 << shift[i, j] for i, j in pairs if i not in out and j in out))
        states = np.unique(states[:, None] + np.array(sorted(gains), np.int64))

    def opens(secret):
        return (states >> shift[secret]) & 7 >= needed

    good = np.ones(len(states), bool)
    for i in inside:
        good &= opens(i)
        for j in outside:
            good &= opens((i, j)) | opens((j, i))
    return bool(good.any())


CASES = [(n, t, c) for n in range(3, 7) for c in range(n - 1) for t in range((n + c) // 2 + 1, n + 1)]


@pytest.mark.parametrize(("n", "t", "c"), CASES)
def test_smallest_split_agrees_with_brute_force(n, t, c):
    h = n - c
    found = next((s for s in range(1, h) if can_isolate(h, h, s, n - t, t - c)), h)
    assert found == compute_smallest_split(n, t, c)


@pytest.mark.parametrize(("n", "owners"), [(n, owners) for n in range(4, 7) for owners in range(3, n)])
def test_smallest_tower_split_agrees_with_brute_force(n, owners):
    for c in range(n - 2):
        for t in range((n + c) // 2 + 1, n + 1):
            thresholds = Thresholds(n, c, 1, t)
            omissions = min(n - t, owners - thresholds.min_owners)
            if omissions < 0:
                continue
            found = []
            for colluding in range(max(0, c - (n - owners)), min(c, owners - 1) + 1):
                honest = owners - colluding
                sizes = (s for s in range(1, honest) if can_isolate(n - c, honest, s, omissions, t - c))
                found.append(next(sizes, honest))
            assert min(found) == compute_smallest_tower_split(thresholds, n, owners)


@settings(derandomize=True, deadline=None)
@given(st.integers(3, 100))
def test_the_default_threshold_keeps_its_promises(n):
    thresholds = compute_thresholds(n, ThresholdPolicy())
    t, c = thresholds.threshold, thresholds.colluders
    assert 3 * t > 2 * n
    assert 2 * t > n + c
    assert t - c >= thresholds.min_honest
    assert n - t == -(-n // 3) - 1


def test_two_sets_of_answers_share_an_honest_site_whatever_is_assumed_of_colluders():
    for n in range(3, 40):
        for c in range(n - 3):
            thresholds = compute_thresholds(n, ThresholdPolicy(colluders=c))
            assert 2 * thresholds.threshold > n + c


@pytest.mark.parametrize(("n", "tolerated"), [(3, 0), (4, 1), (6, 1), (8, 2), (50, 16)])
def test_tolerated_dropouts(n, tolerated):
    assert n - compute_thresholds(n, ThresholdPolicy()).threshold == tolerated


def test_the_thresholds_of_small_consortia():
    """What DESIGN and docs/secure-aggregation.md promise."""
    found = [compute_thresholds(n, ThresholdPolicy()).threshold for n in range(3, 11)]
    assert found == [3, 3, 4, 5, 5, 6, 7, 7]
    part = compute_thresholds(7, ThresholdPolicy(), approved=10)
    assert (part.threshold, part.colluders, part.min_honest) == (6, 3, 3)


@settings(derandomize=True, deadline=None)
@given(st.integers(3, 60), st.data())
def test_a_run_of_some_members_assumes_the_colluders_of_all(approved, data):
    members = data.draw(st.integers(1, approved))
    try:
        found = compute_thresholds(members, ThresholdPolicy(), approved)
    except ProtocolViolationError:
        assert members <= (approved - 1) // 3 + 2 or members < 3
        return
    whole = compute_thresholds(approved, ThresholdPolicy())
    assert (found.colluders, found.min_honest) == (whole.colluders, whole.min_honest)
    assert 2 * found.threshold > members + found.colluders


@settings(derandomize=True, deadline=None)
@given(st.data())
def test_of_two_policies_the_stricter_number_wins(data):
    def draw():
        number = st.none() | st.integers(-5, 9)
        return ThresholdPolicy(data.draw(number), data.draw(number), data.draw(st.integers(-5, 9)))

    approved, one, two = data.draw(st.integers(3, 20)), draw(), draw()
    both = one.combine(two, approved)
    assert both == two.combine(one, approved)
    for policy in (one.resolve(approved), two.resolve(approved)):
        for number in ("colluders", "min_honest", "min_sites"):
            assert getattr(both, number) >= getattr(policy, number)


@pytest.mark.parametrize("words", [{"colluders": -1}, {"min_honest": 0}, {"min_honest": -3}, {"min_sites": 0}])
def test_numbers_out_of_range_are_refused(words):
    with pytest.raises(ProtocolViolationError, match=r"R8: .*out of range"):
        compute_thresholds(6, ThresholdPolicy(**words))


def test_every_segment_needs_the_smallest_sum():
    assert compute_thresholds(8, ThresholdPolicy(min_sites=6)).min_owners == 6
    assert compute_thresholds(8, ThresholdPolicy(min_sites=4)).min_owners == 5


@pytest.mark.parametrize(
    ("n", "policy"),
    [
        (2, ThresholdPolicy()),
        (5, ThresholdPolicy(min_sites=6)),
        (4, ThresholdPolicy(colluders=3)),
        (4, ThresholdPolicy(colluders=2, min_honest=3)),
    ],
)
def test_cohorts_too_small_for_the_policy_are_refused(n, policy):
    with pytest.raises(ProtocolViolationError, match=f"R8: {n} sites are too few"):
        compute_thresholds(n, policy)


def test_signatures_are_needed_where_a_split_could_isolate():
    assert needs_signatures(compute_thresholds(7, ThresholdPolicy()), 7, ())  # s* = 2 < 3
    assert not needs_signatures(compute_thresholds(8, ThresholdPolicy()), 8, (8,))
    # A tower of 7 among 8 sites can be split although the whole cohort cannot.
    assert needs_signatures(compute_thresholds(8, ThresholdPolicy()), 8, (8, 7))
    assert not needs_signatures(compute_thresholds(8, ThresholdPolicy()), 8, (8, 5))
