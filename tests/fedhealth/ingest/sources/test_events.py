"""One cell for each person: whatever order a record system answers in."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhealth.errors import ConfigError, DataError
from fedhealth.ingest.sources.events import (
    TAKES,
    ClinicalEvent,
    EventPeriod,
    check_floor,
    normalize_time,
    reduce_events,
)

EVENTS = st.lists(
    st.builds(
        ClinicalEvent,
        st.sampled_from("ab"),
        st.sampled_from(["", "2023-05", "2023-05-01", "2023-05-01T08:00:00"]),
        st.uuids().map(str),
        st.sampled_from(["", "1.0", "20.5", "word"]),
        st.sampled_from(["mg/l", "mg/dl"]),
        st.booleans(),
    ),
    max_size=8,
)


@given(EVENTS, st.randoms(use_true_random=False), st.sampled_from(TAKES))
def test_the_order_of_answers_does_not_matter(events, draw, take):
    shuffled = draw.sample(events, len(events))
    found, again = (reduce_events(each, EventPeriod(take)) for each in (events, shuffled))
    units = {each.unit for each in events}
    if take in ("lowest", "highest") and len(units) > 1:  # which of two equal values is kept is not said
        assert set(found.cells) == set(again.cells)
    else:
        assert found.cells == again.cells
    assert set(found.cells) <= {each.person for each in events}


def make_events(*values):
    return [ClinicalEvent("a", f"2023-05-0{place}", str(place), value, "mg/l") for place, value in enumerate(values, 1)]


@pytest.mark.parametrize(
    ("take", "cell"),
    [("last", "7.0 mg/l"), ("first", "9.0 mg/l"), ("lowest", "5.0 mg/l"), ("highest", "11.0 mg/l"), ("any", "1")],
)
def test_which_value_is_taken(take, cell):
    assert reduce_events(make_events("9.0", "5.0", "11.0", "7.0"), EventPeriod(take)).cells == {"a": cell}


def test_times_are_compared_in_one_zone():
    assert normalize_time("2023-05-01T01:00:00+02:00") == "2023-04-30T23:00:00" < normalize_time("2023-05-01")
    assert normalize_time("2023-04-30T23:00:00Z") == normalize_time(datetime(2023, 4, 30, 23, tzinfo=UTC))
    assert normalize_time(None) == ""
    for wrong in (12345, "yesterday"):
        with pytest.raises(ValueError):
            normalize_time(wrong)


def test_a_period_takes_no_event_of_unknown_time():
    period = EventPeriod("last", "2023-05-02", "2023-05-04")
    assert [period.includes_time(time) for time in ("", "2023-05", "2023-05-02T00:00:00", "2023-05-04")] == [
        False,
        False,
        True,
        False,
    ]
    assert EventPeriod().includes_time("")


def test_impossible_declarations_are_refused():
    with pytest.raises(ConfigError, match=r"x\.take"):
        EventPeriod("mean").check_values("x")
    with pytest.raises(ConfigError, match=r"x\.until: '2023-02-30' is not a day"):
        EventPeriod(until="2023-02-30").check_values("x")


def test_the_floor_says_nothing_about_how_few():
    check_floor("x", 10, 10)
    messages = set()
    for few in (0, 3, 9):
        with pytest.raises(DataError) as found:
            check_floor("x", few, 10)
        messages.add(str(found.value))
    assert len(messages) == 1
