from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhealth.ingest.selection_rules import MAX_SLICES, find_rule, select_slices, sort_slices
from fedhealth.ingest.settings import SelectionRule
from tests.fedhealth.ingest.test_join import facts

CHEST = replace(facts(), modality="DX", view="PA", body_part="CHEST")


def test_the_first_rule_that_fits_decides():
    rules = (
        SelectionRule(modality=("CT",)),
        SelectionRule(modality=("cr", "dx"), view=("PA", "AP")),
        SelectionRule(body_part=("CHEST",)),
    )
    assert find_rule(CHEST, rules) == 1
    assert find_rule(replace(CHEST, view="LL"), rules) == 2
    assert find_rule(replace(CHEST, view="LL", body_part=""), rules) is None
    assert find_rule(CHEST, (SelectionRule(),)) == 0


@given(st.integers(1, 60), st.integers(1, 9))
def test_slices_are_spread_evenly(count, wanted):
    which = select_slices(count, SelectionRule(take="spread", count=wanted))
    assert len(which) == min(count, wanted)
    assert which == sorted(set(which))
    assert set(which) <= set(range(count))
    if wanted == 1:
        assert which == select_slices(count, SelectionRule())


def test_all_slices_but_not_any_number_of_them():
    assert select_slices(3, SelectionRule(take="all")) == select_slices(3, SelectionRule(take="mip")) == [0, 1, 2]
    assert select_slices(MAX_SLICES + 1, SelectionRule(take="middle")) == [MAX_SLICES // 2]
    with pytest.raises(ValueError, match="more than"):
        select_slices(MAX_SLICES + 1, SelectionRule(take="all"))


def test_slices_lie_along_their_axis():
    slices = [("a", replace(CHEST, place=5.0)), ("b", replace(CHEST, place=-1.0)), ("c", CHEST), ("d", CHEST)]
    assert sort_slices(slices) == ["b", "a", "c", "d"]
