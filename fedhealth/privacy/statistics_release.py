"""Statistics that may leave a private site: a single noisy release per run, booked and stored.

Where the sites share the noise, a draw is for one sum: nothing is stored, and every further sum is drawn and booked
anew. The same words may be masked again, as long as only one of these sums can open.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from fedhealth.privacy.accounting.accountant import PrivacyEvent
from fedhealth.privacy.accounting.booking import find_bookings
from fedhealth.privacy.accounting.budget import PrivacyBudget
from fedhealth.privacy.accounting.ledger_folder import get_score_release_path
from fedhealth.privacy.accounting.plan import PrivacyPlan
from fedhealth.privacy.context import AccountingContext
from fedhealth.privacy.mechanisms.gaussian_noise import NoiseSource
from fedhealth.privacy.mechanisms.histogram_release import (
    SUBGROUP_PREFIX,
    compute_histogram_sensitivity,
    compute_table_sensitivity,
    noise_histograms,
    noise_tables,
)
from fedhealth.privacy.mechanisms.noise_share import NoiseShare
from fedhealth.privacy.shared_release import check_noise_shares, draw_shared_tables
from fedhealth.utils.atomic_io import write_atomic

Arrays = dict[str, np.ndarray]
Shares = Mapping[str, NoiseShare]
_BOOKING = "booking"


def release_score_histograms(
    budget: PrivacyBudget,
    plan: PrivacyPlan,
    statistics: Mapping[str, np.ndarray],
    accounting: AccountingContext,
    subgroup_share: float = 0.0,
    shares: Shares | None = None,
) -> Arrays:
    """Return the final model's score histograms, noised and booked once per run; nothing of single rounds.

    Args:
        budget: of the data set.
        plan: of the run; without a `score_release_event` nothing is released.
        statistics: what the site counted; only histograms of a held-out split are released.
        accounting: the run and the site.
        subgroup_share: part of the release for the histograms by subgroup; with 0 none of them is released.
        shares: of the noise of their sum; used if the plan shares it.

    Raises:
        PrivacyError: the budget does not allow it, the sum would have too little noise, or the ledger is damaged or in
            use.

    """
    parts = ("validation.", "test.", *([SUBGROUP_PREFIX] if subgroup_share else []))
    held_out = {name: counts for name, counts in statistics.items() if name.startswith(parts)}
    event = plan.score_release_event
    if event is None or not any(name.startswith("test.") for name in held_out):
        return {}
    if event.shares > 1:
        variables = sum(name.startswith(SUBGROUP_PREFIX) for name in held_out)
        columns = max(counts.shape[-2] for counts in held_out.values())
        sensitivity = compute_histogram_sensitivity(columns, variables)
        return _release_shares(budget, plan, event, accounting, held_out, sensitivity, shares or {})
    noise_multiplier = event.noise_multiplier
    return _release_once(
        budget,
        plan,
        event,
        accounting,
        lambda: noise_histograms(held_out, noise_multiplier, NoiseSource(), subgroup_share),
    )


def release_descriptive_counts(
    budget: PrivacyBudget,
    plan: PrivacyPlan,
    counts: Mapping[str, np.ndarray],
    moved: int,
    accounting: AccountingContext,
    shares: Shares | None = None,
) -> Arrays:
    """Return counts of patients, noised and booked once per run: they use the whole epsilon of the run.

    Args:
        budget: of the data set.
        plan: of the run, with a single step.
        counts: tables of counts, by name.
        moved: how many counts of a table one unit can change, each by one.
        accounting: the run and the site.
        shares: of the noise of their sum; used if the plan shares it.

    Raises:
        PrivacyError: the budget does not allow it, the sum would have too little noise, or the ledger is damaged or in
            use.

    """
    if plan.shares > 1:
        sensitivity = compute_table_sensitivity(len(counts), moved)
        return _release_shares(budget, plan, plan.round_event, accounting, counts, sensitivity, shares or {})
    return _release_once(
        budget,
        plan,
        plan.round_event,
        accounting,
        lambda: noise_tables(counts, plan.noise_multiplier, moved, NoiseSource()),
    )


def _release_once(
    budget: PrivacyBudget,
    plan: PrivacyPlan,
    event: PrivacyEvent,
    accounting: AccountingContext,
    draw: Callable[[], Arrays],
) -> Arrays:
    """Book and draw the run's single noisy release and store it.

    A repeated call returns the stored release, so the noise cannot be averaged out. A release whose booking failed
    before it left is never sent: it is drawn anew under a booking of its own.
    """
    path = get_score_release_path(accounting.folder, accounting.run)
    with budget.open_ledger(accounting.folder) as ledger:
        number, stored = _load_arrays(path)
        bookings = find_bookings(ledger.entries, accounting.run, accounting.purpose)
        if any(each.number == number and each.state != "failed" for each in bookings):
            return stored
        after_training = replace(accounting, round=accounting.rounds + 1)
        booking = budget.book(ledger, plan, after_training, event)
        drawn = draw()
        _save_arrays(path, booking.number, drawn)
    return drawn


def _release_shares(
    budget: PrivacyBudget,
    plan: PrivacyPlan,
    event: PrivacyEvent,
    accounting: AccountingContext,
    tables: Mapping[str, np.ndarray],
    sensitivity: float,
    shares: Shares,
) -> Arrays:
    """Book and draw what this site adds to one sum."""
    check_noise_shares(shares, sensitivity, event)
    with budget.open_ledger(accounting.folder) as ledger:
        budget.book(ledger, plan, replace(accounting, round=accounting.rounds + 1), event)
        return draw_shared_tables(tables, shares)


def _load_arrays(path: Path) -> tuple[int, Arrays]:
    """Return the number of the booking that a stored release belongs to, and its arrays; 0 if there is none."""
    if not path.is_file():
        return 0, {}
    with np.load(path, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    return int(arrays.pop(_BOOKING)), arrays


def _save_arrays(path: Path, booking: int, arrays: Arrays) -> None:
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **{_BOOKING: np.array(booking), **arrays})
    write_atomic(path, content.getvalue())
