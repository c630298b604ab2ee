from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhealth.ingest.selection_rules import LIMIT, chosen, in_order, rule_for
from fedhealth.ingest.settings import Rule
from tests.fedhealth.ingest.test_join import facts

CHEST = replace(facts(), modality="DX", view="PA", body_part="CHEST")


def test_the_first_rule_that_fits_decides():
    rules = (Rule(modality=("CT",)), Rule(modality=("cr", "dx"), view=("PA", "AP")), Rule(body_part=("CHEST",)))
    assert rule_for(CHEST, rules) == 1
    assert rule_for(replace(CHEST, view="LL"), rules) == 2
    assert rule_for(replace(CHEST, view="LL", body_part=""), rules) is None
    assert rule_for(CHEST, (Rule(),)) == 0


@given(st.integers(1, 60), st.integers(1, 9))
def test_slices_are_spread_evenly(count, wanted):
    which = chosen(count, Rule(take="spread", count=wanted))
    assert len(which) == min(count, wanted)
    assert which == sorted(set(which))
    assert set(which) <= set(range(count))
    if wanted == 1:
        assert which == chosen(count, Rule())


def test_all_slices_but_not_any_number_of_them():
    assert chosen(3, Rule(take="all")) == chosen(3, Rule(take="mip")) == [0, 1, 2]
    assert chosen(LIMIT + 1, Rule(take="middle")) == [LIMIT // 2]
    with pytest.raises(ValueError, match="more than"):
        chosen(LIMIT + 1, Rule(take="all"))


def test_slices_lie_along_their_axis():
    slices = [("a", replace(CHEST, place=5.0)), ("b", replace(CHEST, place=-1.0)), ("c", CHEST), ("d", CHEST)]
    assert in_order(slices) == ["b", "a", "c", "d"]
