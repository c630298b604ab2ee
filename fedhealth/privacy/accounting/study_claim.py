"""Reserve a study's share of a data set's budget: at its approval, and again whenever one of its runs takes its part.

Two studies of the same patients share one ledger. What one has reserved counts as spent for the other. A run has its
part from the handshake on. Runs that were accepted and have not begun give way, the oldest first, where the study has
no room for another: each of them claims its part once more before it touches data.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fedhealth.errors import PrivacyError
from fedhealth.privacy.accounting.budget import PrivacyBudget, get_plan_cost
from fedhealth.privacy.accounting.ledger import Ledger
from fedhealth.privacy.accounting.ledger_entry import SPENT_KINDS, LedgerEntry, get_booked_events
from fedhealth.privacy.accounting.ledger_folder import find_ledgers, get_ledger_path
from fedhealth.privacy.accounting.limits import BudgetExceededError, EpsilonLimits
from fedhealth.privacy.accounting.plan import DEFAULT_DELTA, PrivacyPlan
from fedhealth.privacy.accounting.privacy_target import load_target
from fedhealth.privacy.accounting.reservations import Reservation, RunCost, compute_remaining_cost
from fedhealth.privacy.accounting.study_share import STUDY_PREFIX, StudyShare
from fedhealth.privacy.accounting.study_total import describe_excess, get_study_events, list_spending_runs

_LOCK_SECONDS = 2.0  # to wait for a ledger that another process reads or books in


@dataclass(frozen=True)
class StudyRuns:
    """The runs of a study at a site.

    Attributes:
        begun: those that have touched the data.
        ended: runs of any study that never go on.
        starting: plans of those that are about to take their part, by run id.

    """

    begun: Sequence[str] = ()
    ended: Collection[str] = ()
    starting: Mapping[str, PrivacyPlan] | None = None


def claim_share(budget: PrivacyBudget, folder: Path, share: StudyShare, price: RunCost, runs: StudyRuns) -> None:
    """Reserve what the runs of a study may still spend, or replace its earlier reservations.

    Args:
        budget: of the data set.
        folder: the site's private folder.
        share: of the study.
        price: of a run that has not been ordered yet: of the dearest that the study allows.
        runs: of the study.

    Raises:
        PrivacyError: all runs are used, they would spend more than the study states, the budget does not allow it, or
            the ledger is damaged or in use.

    """
    with budget.open_ledger(folder, wait=_LOCK_SECONDS) as ledger:
        costs = _cost_runs(ledger, folder, share, runs)
        _check_unit(ledger.entries, costs, price, share)
        slots = {share.name_slot(number): price for number in range(len(costs), share.runs)}
        _check_total(ledger.entries, costs if runs.starting else costs | slots, share)
        try:
            budget.reserve_in_ledger(ledger, share.key, costs | slots, share.expires_at, share.delta)
        except BudgetExceededError as fault:
            problem = f"the share of the study {share.name} does not fit into the privacy budget of {budget.dataset}"
            raise PrivacyError(problem, "Other studies of these patients have spent or reserved it.") from fault


def release_shares(folder: Path, keep: Collection[tuple[str, str]]) -> None:
    """Give back what studies have reserved, except those to keep.

    Args:
        folder: the site's private folder.
        keep: (data set, key of the study) of each reservation that somebody's approval holds.

    Raises:
        PrivacyError: a ledger is damaged or in use; what the others hold is given back all the same.

    """
    faults = []
    for _, path in find_ledgers(folder):
        try:
            with Ledger.open(path, wait=_LOCK_SECONDS) as ledger:
                held = {each.sweep for each in ledger.get_reservations() if each.sweep.startswith(STUDY_PREFIX)}
                for key in sorted(key for key in held if (path.stem, key) not in keep):
                    ledger.reserve(key, {}, 0.0, EpsilonLimits(DEFAULT_DELTA))
        except PrivacyError as fault:
            faults.append(fault)
    if faults:
        raise faults[0]


def extend_reservations(folder: Path, dataset: str, share: StudyShare) -> None:
    """Let what a study has reserved hold until its new last day; the amounts stay as they are.

    Raises:
        PrivacyError: the ledger is damaged or in use.

    """
    with Ledger.open(get_ledger_path(folder, dataset), wait=_LOCK_SECONDS) as ledger:
        held = {each.run: each.cost for each in ledger.get_reservations() if each.sweep == share.key}
        costs = {run: _add_booked(ledger.entries, run, cost) for run, cost in held.items()}
        ledger.reserve(share.key, costs, share.expires_at, EpsilonLimits(DEFAULT_DELTA))


def _cost_runs(ledger: Ledger, folder: Path, share: StudyShare, runs: StudyRuns) -> dict[str, RunCost]:
    """Return what each run that counts has spent and may still spend.

    Raises:
        PrivacyError: all runs are used.

    """
    starting, entries = runs.starting or {}, ledger.entries
    used = dict.fromkeys([*runs.begun, *list_spending_runs(entries, share), *starting])
    if len(used) > share.runs:
        problem = f"all {share.runs} runs of the study {share.name} are used"
        raise PrivacyError(problem, "The lead may publish a new version.")
    held = {each.run: each for each in ledger.get_reservations() if each.sweep == share.key}
    waiting = [run for run in _sort_by_age(entries, held) if not (share.is_slot(run) or run in used)]
    waiting = [run for run in waiting if run not in runs.ended]
    kept = waiting[max(0, len(waiting) - (share.runs - len(used))) :]
    planned = {run: get_plan_cost(plan) for run, plan in starting.items()}
    costs = {}
    for run in (*used, *kept):
        whole = planned.get(run) or _load_cost(folder, ledger, run, held.get(run))
        still = RunCost(whole.unit, (), whole.max_records_per_patient) if run in runs.ended else whole
        remaining = compute_remaining_cost(still, get_booked_events(entries, run))
        costs[run] = _add_booked(entries, run, remaining)
    return costs


def _sort_by_age(entries: Sequence[LedgerEntry], held: Mapping[str, Reservation]) -> list[str]:
    """Return runs by the age of their first reservation, the oldest first."""
    first: dict[str, int] = {}
    for entry in entries:
        if entry.kind == "reserve" and entry.run in held:
            first.setdefault(entry.run, entry.number)
    return sorted(held, key=lambda run: first[run])


def _load_cost(folder: Path, ledger: Ledger, run: str, held: Reservation | None) -> RunCost:
    """Return what a whole run costs by the plan that was saved when it was accepted, else as reserved."""
    target = load_target(folder, run)
    if target is not None and target.run_events and target.dataset == ledger.dataset:
        return RunCost(target.unit, target.run_events, target.max_records_per_patient)
    return _add_booked(ledger.entries, run, held.cost if held is not None else RunCost("patient", ()))


def _add_booked(entries: Sequence[LedgerEntry], run: str, remaining: RunCost) -> RunCost:
    """Return the cost of a whole run from what it may still spend."""
    return replace(remaining, events=(*get_booked_events(entries, run), *remaining.events))


def _check_unit(
    entries: Sequence[LedgerEntry], costs: Mapping[str, RunCost], price: RunCost, share: StudyShare
) -> None:
    """Raise if a study's runs protect different units: one total cannot be stated for both."""
    spending = list_spending_runs(entries, share)
    units = {entry.unit for entry in entries if entry.kind in SPENT_KINDS and entry.run in spending}
    units |= {cost.unit for cost in costs.values() if cost.events} | {price.unit}
    if len(units) > 1:
        problem = f"the runs of the study {share.name} would protect different units ({', '.join(sorted(units))})"
        raise PrivacyError(problem, "Ask the lead for a study with a name of its own.")


def _check_total(entries: Sequence[LedgerEntry], costs: Mapping[str, RunCost], share: StudyShare) -> None:
    """Raise if the study's runs would together spend more than it states."""
    to_come = [
        event
        for run, cost in costs.items()
        for event in compute_remaining_cost(cost, get_booked_events(entries, run)).events
    ]
    if excess := describe_excess([*get_study_events(entries, share), *to_come], share):
        raise PrivacyError(excess, "Ask the lead for a study that states what its runs spend.")
