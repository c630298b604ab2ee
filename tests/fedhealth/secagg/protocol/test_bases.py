"""Every base cohort, every set of colluders, every view: brute force over the arithmetic of t for small consortia.

R members, N of them in the run, c of the R collude with the lead. All of it uses the product's own numbers.
"""

import itertools

import pytest

from fedhealth.secagg.errors import ProtocolViolationError
from fedhealth.secagg.protocol.threshold import ThresholdPolicy, compute_thresholds, needs_signatures
from tests.fedhealth.secagg.protocol.test_threshold import can_isolate


def list_runs(most):
    """Return the thresholds of every run that is allowed, by (R, N)."""
    found = {}
    for approved in range(3, most + 1):
        for members in range(1, approved + 1):
            try:
                found[approved, members] = compute_thresholds(members, ThresholdPolicy(), approved)
            except ProtocolViolationError:
                continue
    return found


RUNS = list_runs(7)


def open_two_sums(members, threshold, colluders):
    """Try all pairs of bases and all ways in which each member answers one question or the other.

    A colluder answers both, an honest site one of those whose base it is in. Return whether both get t answers.
    """
    everyone = range(members)
    bases = [set(b) for size in range(threshold, members + 1) for b in itertools.combinations(everyone, size)]
    for first, second in itertools.combinations_with_replacement(bases, 2):
        honest_first, honest_second = first - colluders, second - colluders
        both = honest_first & honest_second
        for given in range(len(both) + 1):  # of the honest sites in both, so many answer the first question
            one = len(first & colluders) + len(honest_first - both) + given
            other = len(second & colluders) + len(honest_second - both) + len(both) - given
            if one >= threshold and other >= threshold:
                return True
    return False


@pytest.mark.parametrize("run", RUNS, ids=str)
def test_no_two_sums_of_one_vector_reach_t_and_one_below_they_do(run):
    found = RUNS[run]
    members, c = run[1], found.colluders
    for chosen in itertools.combinations(range(members), min(c, members)):
        assert not open_two_sums(members, found.threshold, set(chosen))
    lowered = (members + c) // 2  # one below the second term of t
    assert open_two_sums(members, lowered, set(range(c)))


@pytest.mark.parametrize("run", RUNS, ids=str)
def test_every_signed_sum_hides_min_honest_sites_and_one_below_it_does_not(run):
    """With one list for all, every set of at least t survivors holds min_honest honest ones, wherever colluders sit."""
    found, members = RUNS[run], run[1]

    def hides(least):
        return all(
            len(set(survivors) - set(colluders)) >= found.min_honest
            for colluders in itertools.combinations(range(members), found.colluders)
            for survivors in itertools.combinations(range(members), least)
        )

    assert hides(found.threshold)
    assert hides(found.min_owners)  # of the owners of any one segment
    assert not hides(found.colluders + found.min_honest - 1)


@pytest.mark.parametrize("run", RUNS, ids=str)
def test_no_unsigned_attempt_of_any_cohort_can_be_split_below_min_honest(run):
    """Views: the lead tells every reader its own list; where that could isolate fewer, the list must be signed."""
    found, members = RUNS[run], run[1]
    for cohort in range(found.threshold, members + 1):
        honest, omissions = cohort - found.colluders, cohort - found.threshold
        needed = found.threshold - found.colluders
        if needs_signatures(found, cohort, ()):
            continue
        for size in range(1, min(found.min_honest, honest)):
            assert not can_isolate(honest, honest, size, omissions, needed)


def test_where_signatures_are_asked_for_a_split_is_possible():
    """Seven members: without [SIGN], two honest sites could be told apart from the rest."""
    found = RUNS[7, 7]
    assert needs_signatures(found, 7, ())
    assert can_isolate(5, 5, 2, 7 - found.threshold, found.threshold - found.colluders)


@pytest.mark.parametrize(("approved", "base"), [(5, 4), (8, 6), (9, 6), (10, 7), (13, 9), (20, 14)])
def test_with_t_of_the_base_cohort_two_sums_could_be_opened(approved, base):
    """Why t follows from N and not from the base: c of the roster alone is not enough."""
    whole = compute_thresholds(approved, ThresholdPolicy())
    c, honest = whole.colluders, approved - whole.colluders
    of_base = max(2 * base // 3 + 1, (base + c) // 2 + 1, c + whole.min_honest)
    assert 2 * (of_base - c) <= honest  # the colluders answer both, the honest sites share themselves out
    assert 2 * (whole.threshold - c) > honest
