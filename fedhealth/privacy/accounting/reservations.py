"""What the runs of a sweep will still spend: arithmetic over a ledger's lines, without any file.

A reservation counts for every other run as if it were spent. What its own run books uses it up; the end of the sweep
gives the rest back; after its time it is void without anybody's doing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedhealth.privacy.accounting.accountant import Event

if TYPE_CHECKING:
    from fedhealth.privacy.accounting.ledger import Entry

Steps = Counter[tuple[float, float]]
"""How many releases, by sigma and rate."""


@dataclass(frozen=True)
class Cost:
    """What a whole run spends: whom it protects, and everything that it will book."""

    unit: str
    events: tuple[Event, ...]


@dataclass(frozen=True)
class Reservation:
    """What is still kept for a run.

    Attributes:
        run: its id.
        sweep: that it belongs to.
        unit: whom it protects.
        events: what it may still book of what was reserved.
        until: when it lapses, seconds since 1970.

    """

    run: str
    sweep: str
    unit: str
    events: tuple[Event, ...]
    until: float


def reservations(entries: Iterable[Entry], now: float) -> list[Reservation]:
    """Return what is kept for runs at the time `now`, in seconds since 1970: reserved, not booked, not given back."""
    kept: dict[str, Steps] = {}
    newest: dict[str, Entry] = {}
    for entry in entries:
        last, key = newest.get(entry.run), (entry.event.sigma, entry.event.rate)
        if entry.kind == "reserve":
            if last is None or last.until < entry.time:  # the earlier one had lapsed
                kept[entry.run] = Counter()
            kept[entry.run][key] += entry.event.steps
            newest[entry.run] = entry
        elif entry.kind in ("book", "release") and last is not None:
            kept[entry.run][key] -= min(kept[entry.run][key], entry.event.steps)
    held = [Reservation(r, last.note, last.unit, _events(kept[r]), last.until) for r, last in newest.items()]
    return [each for each in held if each.events and now <= each.until]


def remaining(cost: Cost, booked: Iterable[Event]) -> tuple[Event, ...]:
    """Return what of a run's cost is not booked yet."""
    return _events(_steps(cost.events) - _steps(booked))


def events_of(held: Sequence[Reservation]) -> list[Event]:
    """Return everything that is kept."""
    return [event for each in held for event in each.events]


def _steps(events: Iterable[Event]) -> Steps:
    steps: Steps = Counter()
    for event in events:
        steps[event.sigma, event.rate] += event.steps
    return steps


def _events(steps: Steps) -> tuple[Event, ...]:
    return tuple(Event(sigma, rate, count) for (sigma, rate), count in sorted(steps.items()) if count > 0)
