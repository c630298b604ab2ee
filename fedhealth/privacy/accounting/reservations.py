"""What the runs of a sweep have reserved: computed from a ledger's entries, without any file.

For every other run, a reservation counts as spent. The events that its own run books use it up. At the end of the sweep
the rest is cancelled. A reservation that is neither used nor cancelled expires.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fedhealth.errors import PrivacyError
from fedhealth.privacy.accounting.accountant import PrivacyEvent
from fedhealth.privacy.accounting.ledger_entry import SPENT_KINDS, LedgerEntry
from fedhealth.privacy.accounting.units import convert_to_patient
from fedhealth.utils.json_model import parse_model

StepCounts = Counter[tuple[float, float, int]]
"""Number of releases, by noise multiplier, sample rate and shares of the noise."""


@dataclass(frozen=True)
class RunCost:
    """What a run spends.

    Attributes:
        unit: whom the run protects.
        events: all events that it will book, in its own unit.
        max_records_per_patient: the most studies of one patient that they use, for unit `record`.

    """

    unit: str
    events: tuple[PrivacyEvent, ...]
    max_records_per_patient: int = 1

    @property
    def patient_events(self) -> list[PrivacyEvent]:
        """What the events cost one patient."""
        return [convert_to_patient(event, self.unit, self.max_records_per_patient) for event in self.events]


def parse_cost(fields: Mapping[str, Any]) -> RunCost:
    """Return a run's cost from plain values, as `dataclasses.asdict` makes them.

    Raises:
        PrivacyError: they are not those of a cost.

    """
    where, advice = "the stored price of a study's run", "Approve the study again."
    return parse_model(json.dumps(fields), RunCost, where, advice, PrivacyError)


@dataclass(frozen=True)
class ReservedGuarantee:
    """What the reserved runs of a sweep may spend together.

    Attributes:
        epsilon: of all runs, in their own units.
        delta: at which it is measured: the smallest of the runs.
        stated_delta: the deltas of all runs added up, at which a sum of their epsilons holds.
        units: whom the runs protect.
        noise_multiplier: the smallest of the runs.

    """

    epsilon: float
    delta: float
    stated_delta: float
    units: tuple[str, ...]
    noise_multiplier: float


@dataclass(frozen=True)
class Reservation:
    """What is still reserved for a run.

    Attributes:
        run: the run's id.
        sweep: the sweep that the run belongs to.
        cost: the reserved events that the run has not booked yet.
        expires_at: when the reservation expires, seconds since 1970.

    """

    run: str
    sweep: str
    cost: RunCost
    expires_at: float


def find_active_reservations(entries: Iterable[LedgerEntry], now: float) -> list[Reservation]:
    """Return what is reserved at the time `now` (seconds since 1970) and neither booked, cancelled nor expired."""
    reserved: dict[str, StepCounts] = {}
    newest: dict[str, LedgerEntry] = {}
    for entry in entries:
        last = newest.get(entry.run)
        if entry.kind not in ("reserve", "cancel", *SPENT_KINDS):
            continue
        key, steps = _get_mechanism(entry.mechanism), entry.mechanism.steps
        if entry.kind == "reserve":
            if last is None or last.expires_at < entry.time:  # the earlier reservation had expired
                reserved[entry.run] = Counter()
            reserved[entry.run][key] += steps
            newest[entry.run] = entry
        elif last is not None:
            reserved[entry.run][key] -= min(reserved[entry.run][key], steps)
    found = [
        Reservation(
            run,
            last.sweep,
            RunCost(last.unit, _events_from_steps(reserved[run]), last.max_records_per_patient),
            last.expires_at,
        )
        for run, last in newest.items()
    ]
    return [each for each in found if each.cost.events and now <= each.expires_at]


def compute_remaining_cost(cost: RunCost, booked: Iterable[PrivacyEvent]) -> RunCost:
    """Return the part of a run's cost that is not booked yet."""
    return replace(cost, events=_events_from_steps(_count_steps(cost.events) - _count_steps(booked)))


def get_reserved_patient_events(reservations: Sequence[Reservation]) -> list[PrivacyEvent]:
    """Return what the events of all reservations cost one patient."""
    return [event for each in reservations for event in each.cost.patient_events]


def _count_steps(events: Iterable[PrivacyEvent]) -> StepCounts:
    steps: StepCounts = Counter()
    for event in events:
        steps[_get_mechanism(event)] += event.steps
    return steps


def _get_mechanism(event: PrivacyEvent) -> tuple[float, float, int]:
    return event.noise_multiplier, event.sample_rate, event.shares


def _events_from_steps(steps: StepCounts) -> tuple[PrivacyEvent, ...]:
    return tuple(
        PrivacyEvent(noise_multiplier, sample_rate, count, shares)
        for (noise_multiplier, sample_rate, shares), count in sorted(steps.items())
        if count > 0
    )
