"""What the runs of a sweep have reserved: computed from a ledger's entries, without any file.

For every other run, a reservation counts as spent. The events that its own run books use it up. At the end of the sweep
the rest is cancelled. A reservation that is neither used nor cancelled expires.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fedhealth.privacy.accounting.accountant import PrivacyEvent
from fedhealth.privacy.accounting.ledger_entry import LedgerEntry

StepCounts = Counter[tuple[float, float]]
"""Number of releases, by noise multiplier and sample rate."""


@dataclass(frozen=True)
class RunCost:
    """What a whole run spends: whom it protects, and all events that it will book."""

    unit: str
    events: tuple[PrivacyEvent, ...]


@dataclass(frozen=True)
class Reservation:
    """What is still reserved for a run.

    Attributes:
        run: the run's id.
        sweep: the sweep that the run belongs to.
        unit: whom the run protects.
        events: the reserved events that the run has not booked yet.
        expires_at: when the reservation expires, seconds since 1970.

    """

    run: str
    sweep: str
    unit: str
    events: tuple[PrivacyEvent, ...]
    expires_at: float


def find_active_reservations(entries: Iterable[LedgerEntry], now: float) -> list[Reservation]:
    """Return what is reserved at the time `now` (seconds since 1970) and neither booked, cancelled nor expired."""
    reserved: dict[str, StepCounts] = {}
    newest: dict[str, LedgerEntry] = {}
    for entry in entries:
        last, key = newest.get(entry.run), (entry.event.noise_multiplier, entry.event.sample_rate)
        if entry.kind == "reserve":
            if last is None or last.expires_at < entry.time:  # the earlier reservation had expired
                reserved[entry.run] = Counter()
            reserved[entry.run][key] += entry.event.steps
            newest[entry.run] = entry
        elif entry.kind in ("book", "cancel") and last is not None:
            reserved[entry.run][key] -= min(reserved[entry.run][key], entry.event.steps)
    found = [
        Reservation(run, last.sweep, last.unit, _events_from_steps(reserved[run]), last.expires_at)
        for run, last in newest.items()
    ]
    return [each for each in found if each.events and now <= each.expires_at]


def compute_remaining_events(cost: RunCost, booked: Iterable[PrivacyEvent]) -> tuple[PrivacyEvent, ...]:
    """Return the part of a run's cost that is not booked yet."""
    return _events_from_steps(_count_steps(cost.events) - _count_steps(booked))


def get_reserved_events(reservations: Sequence[Reservation]) -> list[PrivacyEvent]:
    """Return the events of all reservations."""
    return [event for each in reservations for event in each.events]


def _count_steps(events: Iterable[PrivacyEvent]) -> StepCounts:
    steps: StepCounts = Counter()
    for event in events:
        steps[event.noise_multiplier, event.sample_rate] += event.steps
    return steps


def _events_from_steps(steps: StepCounts) -> tuple[PrivacyEvent, ...]:
    return tuple(
        PrivacyEvent(noise_multiplier, sample_rate, count)
        for (noise_multiplier, sample_rate), count in sorted(steps.items())
        if count > 0
    )
