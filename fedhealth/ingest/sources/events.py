"""Reduce what a record system says about a person over time to one cell for each variable."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import NamedTuple

from fedhealth.errors import ConfigError, DataError

TAKES = ("last", "first", "lowest", "highest", "any")
_DAY = re.compile(r"\d{4}(-\d\d(-\d\d)?)?")


class ClinicalEvent(NamedTuple):
    """A value, or a diagnosis, of one person at one time.

    Attributes:
        person: whose it is, as the record system counts people.
        time: as `normalize_time` returns it; empty if it is unknown.
        key: identifies the event among those of the same time.
        value: a number or a word; empty for an event that only happened.
        unit: of a number.
        is_bound: whether the number is a bound only (`<5`).

    """

    person: str
    time: str
    key: str
    value: str = ""
    unit: str = ""
    is_bound: bool = False


@dataclass(frozen=True)
class EventPeriod:
    """From which events a cell is made, and how.

    Attributes:
        take: the `last`, `first`, `lowest` or `highest` value; `any`: 1 if there is an event, else 0.
        since: first day, YYYY-MM-DD; empty = from the beginning.
        until: first day after the last; empty = to the end.

    """

    take: str = "last"
    since: str = ""
    until: str = ""

    def check_values(self, where: str) -> None:
        """Check what was declared.

        Raises:
            ConfigError: with what is possible.

        """
        if self.take not in TAKES:
            raise ConfigError(f"{where}.take: must be one of {', '.join(TAKES)}.", "Correct the file.")
        for name, day in (("since", self.since), ("until", self.until)):
            if day and not _is_day(day):
                raise ConfigError(f"{where}.{name}: {day!r} is not a day.", 'Write "2023-01-31".')

    def includes_time(self, time: str) -> bool:
        """Return whether an event of this time counts; without a period, one of unknown time does too."""
        if not (self.since or self.until):
            return True
        return bool(time) and self.since <= time and (not self.until or time < self.until)


@dataclass(frozen=True)
class VariableCells:
    """One variable of all people.

    Attributes:
        cells: by person; people without an event have none.
        set_aside: why events were not used, with counts.

    """

    cells: Mapping[str, str]
    set_aside: Counter[str]


def reduce_events(events: Iterable[ClinicalEvent], period: EventPeriod) -> VariableCells:
    """Return one cell for each person with an event."""
    best: dict[str, ClinicalEvent] = {}
    mixed: set[str] = set()
    aside: Counter[str] = Counter()
    for event in events:
        if not period.includes_time(event.time):
            aside["outside the period, or of unknown time"] += 1
        elif period.take == "any":
            best[event.person] = event
        elif event.is_bound:
            aside["only a bound (< or >)"] += 1
        elif not event.value:
            aside["without a value"] += 1
        elif period.take in ("last", "first") and not event.time:
            aside["of unknown time"] += 1
        elif period.take in ("lowest", "highest") and _parse_number(event.value) is None:
            aside["no number"] += 1
        else:
            before = best.setdefault(event.person, event)
            if period.take in ("lowest", "highest") and before.unit != event.unit:
                mixed.add(event.person)
            best[event.person] = _choose_event(before, event, period.take)
    if mixed:
        aside["people whose values have several units"] = len(mixed)
    return VariableCells(
        {person: _format_event(event, period) for person, event in best.items() if person not in mixed}, aside
    )


def check_floor(name: str, people: int, floor: int) -> None:
    """Stop if a variable is known of so few people that it may name one of them; how many is not said.

    Raises:
        DataError: there are fewer than the floor.

    """
    if people < floor:
        raise DataError(
            f"{name}: found for fewer than {floor} people.",
            "Correct its codes, or its period. A value that few people have can identify them: lower min_persons "
            "only if that is acceptable.",
        )


def normalize_time(value: object) -> str:
    """Return a time as text that sorts by time (in UTC if the zone is known); empty if it is unknown.

    Raises:
        ValueError: it is no time.

    """
    if isinstance(value, datetime):
        return (value.astimezone(UTC) if value.tzinfo else value).replace(tzinfo=None).isoformat()
    if isinstance(value, date):
        return value.isoformat()
    if not value:
        return ""
    text = str(value).strip()
    return text if _DAY.fullmatch(text) else normalize_time(datetime.fromisoformat(text))


def _is_day(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def _choose_event(before: ClinicalEvent, event: ClinicalEvent, take: str) -> ClinicalEvent:
    if take in ("last", "first"):
        ordered = sorted((before, event), key=lambda each: (each.time, each.key))
        return ordered[-1] if take == "last" else ordered[0]
    first, second = _parse_number(before.value) or 0.0, _parse_number(event.value) or 0.0
    return event if (second < first if take == "lowest" else second > first) else before


def _format_event(event: ClinicalEvent, period: EventPeriod) -> str:
    if period.take == "any":
        return "1"
    return f"{event.value} {event.unit}".strip()


def _parse_number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
