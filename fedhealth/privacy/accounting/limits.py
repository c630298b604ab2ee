"""The limits of a ledger, and which of them an event would exceed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from fedhealth.errors import PrivacyError
from fedhealth.privacy.accounting.accountant import (
    PrivacyEvent,
    compute_epsilon,
    compute_epsilon_rdp,
    get_local_events,
)
from fedhealth.privacy.accounting.ledger_entry import (
    LIFETIME_DELTA,
    SPENT_KINDS,
    LedgerEntry,
    get_booked_events,
    get_patient_events,
)
from fedhealth.privacy.accounting.rdp_filter import make_rdp_filter
from fedhealth.privacy.accounting.reservations import Reservation, RunCost, get_reserved_patient_events
from fedhealth.privacy.accounting.study_share import StudyShare
from fedhealth.privacy.accounting.study_total import find_study_excess
from fedhealth.utils.privacy_text import format_guarantee

_IF_ALL_COLLUDE = "if all other sites collude,"


@dataclass(frozen=True)
class EpsilonLimits:
    """The most that may be spent.

    Attributes:
        delta: at which epsilon of one run is measured.
        run_epsilon: epsilon of any one run, in the run's own unit.
        lifetime_epsilon: epsilon of all runs on this data set together, for one patient.
        lifetime_delta: at which the epsilon of all runs is measured.
        max_failures: the most tasks that may end in an error reply, of all runs together; None for no limit.
        run_local_epsilon: epsilon of any one run if everybody else colludes.
        lifetime_local_epsilon: epsilon of all runs together if everybody else colludes.
        study: whose total bounds all of its runs together; None for a run that belongs to none.

    """

    delta: float
    run_epsilon: float = inf
    lifetime_epsilon: float = inf
    lifetime_delta: float = LIFETIME_DELTA
    max_failures: int | None = None
    run_local_epsilon: float = inf
    lifetime_local_epsilon: float = inf
    study: StudyShare | None = None


class BudgetExceededError(PrivacyError):
    """The booked and reserved events together would exceed the budget of the data set."""


class ClockBehindLedgerError(PrivacyError):
    """The machine's clock is behind the last entry of the ledger."""


def count_failures(entries: Sequence[LedgerEntry]) -> int:
    """Return how many tasks ended in an error reply, before or after they had booked an event."""
    return sum(entry.kind == "fail" for entry in entries)


def find_exceeded_limit(
    entries: Sequence[LedgerEntry],
    reservations: Sequence[Reservation],
    cost: RunCost,
    limits: EpsilonLimits,
    run: str,
) -> str:
    """Return which limit more events of a run would exceed and by how much; empty if they exceed none.

    Args:
        entries: of the ledger.
        reservations: the active ones; those of the run itself do not count.
        cost: the events to add.
        limits: of the site.
        run: the run's id.

    """
    others = [each for each in reservations if each.run != run]
    return (
        find_failure_excess(entries, limits)
        or _find_mixed_units(entries, cost, run)
        or _find_run_excess(entries, cost, limits, run)
        or find_lifetime_excess(
            [*get_patient_events(entries), *get_reserved_patient_events(others), *cost.patient_events], limits
        )
        or (find_study_excess(entries, others, cost.events, limits.study, run) if limits.study else "")
    )


def find_failure_excess(entries: Sequence[LedgerEntry], limits: EpsilonLimits) -> str:
    """Return why no more events are accepted if too many have failed; empty if not."""
    if limits.max_failures is None or count_failures(entries) < limits.max_failures:
        return ""
    return f"the data set has reached limits.max_failures: {limits.max_failures} private requests failed"


def find_lifetime_excess(patient_events: Sequence[PrivacyEvent], limits: EpsilonLimits) -> str:
    """Return by how much the events exceed a lifetime limit; empty if they do not."""
    found = _find_total_excess(patient_events, limits.lifetime_epsilon, limits.lifetime_delta)
    if found or not _shares_noise(patient_events):
        return found
    local = get_local_events(patient_events)
    found = _find_total_excess(local, limits.lifetime_local_epsilon, limits.lifetime_delta)
    return found and f"{_IF_ALL_COLLUDE} {found}"


def _shares_noise(events: Sequence[PrivacyEvent]) -> bool:
    return any(event.shares > 1 for event in events)


def _find_total_excess(patient_events: Sequence[PrivacyEvent], limit: float, delta: float) -> str:
    if limit == inf or not patient_events:
        return ""
    rdp_filter = make_rdp_filter(limit, delta)
    if rdp_filter.is_within_budget(patient_events):
        return ""
    total = rdp_filter.compute_epsilon(patient_events)
    least = min(event.noise_multiplier for event in patient_events)
    spent = format_guarantee(total, delta, least, "patient", digits=4)
    own = f"{compute_epsilon(patient_events, delta):.4g}"
    return (
        f"{spent}, of all runs on this data set would exceed the limit of {limit:g} at this delta: this is the filter's"
        f" bound, which holds however later runs are chosen; the plans' own epsilon is {own}"
    )


def _find_run_excess(entries: Sequence[LedgerEntry], cost: RunCost, limits: EpsilonLimits, run: str) -> str:
    events = [*get_booked_events(entries, run), *cost.events]
    found = _find_excess_of_run(entries, events, limits.run_epsilon, cost.unit, limits.delta, run)
    if found or not _shares_noise(events):
        return found
    local, limit = get_local_events(events), limits.run_local_epsilon
    found = _find_excess_of_run(entries, local, limit, cost.unit, limits.delta, run)
    return found and f"{_IF_ALL_COLLUDE} {found}"


def _find_excess_of_run(
    entries: Sequence[LedgerEntry], events: Sequence[PrivacyEvent], limit: float, unit: str, delta: float, run: str
) -> str:
    if limit == inf:
        return ""
    if compute_epsilon_rdp(events, delta) <= limit:  # never below the exact value, and faster
        return ""
    total = compute_epsilon(events, delta)
    if total <= limit:
        return ""
    spent = format_guarantee(total, delta, min(event.noise_multiplier for event in events), unit, digits=4)
    failed = sum(entry.kind == "fail" and entry.run == run and entry.booking > 0 for entry in entries)
    lost = f"; {failed} of its bookings failed and are spent, more than privacy.spare_rounds pays for" if failed else ""
    return f"{spent}, of run {run} would exceed the limit of {limit:g} at this delta{lost}"


def _find_mixed_units(entries: Sequence[LedgerEntry], cost: RunCost, run: str) -> str:
    """Return why events of two units cannot be added up in one run; empty if they are of one unit."""
    units = {entry.unit for entry in entries if entry.kind in SPENT_KINDS and entry.run == run} - {cost.unit}
    return f"run {run} was booked for unit {units.pop()} before and cannot go on with {cost.unit}" if units else ""
