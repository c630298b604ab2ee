"""What a site's ledgers show as spent, run by run: for the site's own staff and for the report."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedhealth.privacy.accounting.accountant import compute_epsilon, get_local_events
from fedhealth.privacy.accounting.ledger import verify_ledger
from fedhealth.privacy.accounting.ledger_entry import (
    LIFETIME_DELTA,
    SPENT_KINDS,
    LedgerEntry,
    compute_spent_epsilon,
    get_patient_events,
)
from fedhealth.privacy.accounting.ledger_folder import find_ledgers
from fedhealth.privacy.accounting.privacy_target import PrivacyTarget, load_target
from fedhealth.privacy.accounting.reservations import find_active_reservations, get_reserved_patient_events

HIGH_SPENDING_SHARE = 0.8
"""Share of a budget from which on its owner is warned that little is left."""
_CURVE_POINTS = 3  # the exact accountant takes a moment for each
_RUN_KINDS = (*SPENT_KINDS, "decline", "fail", "retry")


@dataclass(frozen=True)
class RunSpending:
    """What one run spent on one data set of one site.

    Attributes:
        site: its name.
        dataset: its name.
        run: the run's id.
        unit: whom the epsilon protects.
        delta: at which epsilon is measured.
        epsilon: spent so far.
        target: the most that the run may spend; None where that is not on record.
        noise_multiplier: of the training; NaN if every task failed before it had booked anything.
        booked_count: number of events that were booked.
        declined_count: number of events that were declined.
        failed_count: number of failed tasks; what they had booked is spent.
        retried_count: number of attempts to train again under an open booking.
        curve: (round, epsilon so far), for a few rounds and the last.
        shares: honest sites that the noise of a sum counts on; 1 if the site adds all noise itself.
        local_epsilon: spent so far if everybody else colludes; equal to `epsilon` if the noise is not shared.

    """

    site: str
    dataset: str
    run: str
    unit: str
    delta: float
    epsilon: float
    target: float | None
    noise_multiplier: float
    booked_count: int
    declined_count: int
    curve: tuple[tuple[int, float], ...]
    failed_count: int = 0
    retried_count: int = 0
    shares: int = 1
    local_epsilon: float = math.nan


@dataclass(frozen=True)
class DatasetSpending:
    """What all runs together spent on one data set of one site, for each patient.

    Attributes:
        site: its name.
        dataset: its name.
        epsilon: spent by all runs together.
        delta: at which epsilon is measured.
        noise_multiplier: the smallest of any booked event, as converted to the unit; NaN before the first.
        unit: whom the epsilon protects: a ledger composes one unit, the patient.
        local_epsilon: the same if everybody else colludes; None if no run shared its noise.

    """

    site: str
    dataset: str
    epsilon: float
    delta: float
    noise_multiplier: float = math.nan
    unit: str = "patient"
    local_epsilon: float | None = None


def iter_run_spending(folder: Path, delta: float | None = None) -> Iterator[RunSpending]:
    """Yield what every run spent, by site and data set; every ledger is verified.

    Args:
        folder: a site's folder, or a run directory.
        delta: at which to measure; None takes each run's own.

    Raises:
        PrivacyError: a ledger was edited, cut or damaged.

    """
    for site, path in find_ledgers(folder):
        entries = [entry for entry in verify_ledger(path) if entry.kind in _RUN_KINDS]
        for run in dict.fromkeys(entry.run for entry in entries):
            own = [entry for entry in entries if entry.run == run]
            yield _build_run_spending(site, path, own, _load_target(path, run), delta)


def iter_dataset_spending(folder: Path, delta: float | None = None) -> Iterator[DatasetSpending]:
    """Yield what all runs spent together, by site and data set; see `iter_run_spending`."""
    for site, path in find_ledgers(folder):
        yield compute_dataset_spending(site, path, delta)


def compute_dataset_spending(site: str, path: Path, delta: float | None = None) -> DatasetSpending:
    """Return what all runs of a ledger spent together, measured at `delta`."""
    events = get_patient_events(verify_ledger(path))
    noise = min((event.noise_multiplier for event in events), default=math.nan)
    is_shared, at = any(event.shares > 1 for event in events), delta or LIFETIME_DELTA
    local = compute_epsilon(get_local_events(events), at) if is_shared else None
    return DatasetSpending(site, path.stem, *compute_total_epsilon(path, delta), noise, local_epsilon=local)


def compute_total_epsilon(path: Path, delta: float | None = None) -> tuple[float, float]:
    """Return epsilon for one patient of all runs of a ledger together, and the delta at which it is measured.

    Args:
        path: of the ledger.
        delta: at which to measure: `limits.delta` of the site's policy; None takes its default.

    """
    at = delta or LIFETIME_DELTA
    return compute_spent_epsilon(verify_ledger(path), at), at


def compute_reserved_epsilon(path: Path, delta: float, now: float | None = None) -> tuple[float, float]:
    """Return epsilon for one patient of all booked and reserved events, and when the last reservation expires.

    Returns:
        (0, 0) if nothing is reserved.

    """
    entries = verify_ledger(path)
    reservations = find_active_reservations(entries, time.time() if now is None else now)
    if not reservations:
        return 0.0, 0.0
    events = [*get_patient_events(entries), *get_reserved_patient_events(reservations)]
    return compute_epsilon(events, delta), max(each.expires_at for each in reservations)


def _build_run_spending(
    site: str, path: Path, entries: Sequence[LedgerEntry], target: PrivacyTarget | None, delta: float | None
) -> RunSpending:
    at = delta or (target.delta if target else LIFETIME_DELTA)
    booked = [entry for entry in entries if entry.kind in SPENT_KINDS]
    events = [entry.mechanism for entry in booked]
    first = next((entry for entry in entries if entry.event is not None), None)
    counts = sorted({round(len(booked) * k / _CURVE_POINTS) for k in range(1, _CURVE_POINTS + 1)} - {0})
    return RunSpending(
        site=site,
        dataset=path.stem,
        run=entries[0].run,
        unit=(first or entries[0]).unit,
        delta=at,
        epsilon=compute_epsilon(events, at),
        target=target.epsilon if target else None,
        noise_multiplier=first.mechanism.noise_multiplier if first else math.nan,
        booked_count=len(booked),
        declined_count=sum(entry.kind == "decline" for entry in entries),
        curve=tuple((booked[k - 1].round, compute_epsilon(events[:k], at)) for k in counts),
        failed_count=sum(entry.kind == "fail" for entry in entries),
        retried_count=sum(entry.kind == "retry" for entry in entries),
        shares=max((event.shares for event in events), default=1),
        local_epsilon=compute_epsilon(get_local_events(events), at),
    )


def _load_target(ledger: Path, run: str) -> PrivacyTarget | None:
    return load_target(ledger.parent.parent, run)
