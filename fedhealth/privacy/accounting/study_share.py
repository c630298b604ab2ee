"""A study's share of a data set's budget: reserved at its approval, used up by its runs, given back at its end.

Two studies of the same patients share one ledger. What one has reserved counts as spent for the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fedhealth.errors import PrivacyError
from fedhealth.privacy.accounting.accountant import compute_epsilon
from fedhealth.privacy.accounting.budget import PrivacyBudget, cancel_reservations, get_plan_cost
from fedhealth.privacy.accounting.ledger import verify_ledger
from fedhealth.privacy.accounting.ledger_entry import LedgerEntry, get_booked_events
from fedhealth.privacy.accounting.ledger_folder import get_ledger_path
from fedhealth.privacy.accounting.limits import BudgetExceededError
from fedhealth.privacy.accounting.plan import PrivacyPlan
from fedhealth.privacy.accounting.reservations import RunCost, compute_remaining_cost, find_active_reservations
from fedhealth.utils.privacy_text import format_epsilon

_TOLERANCE = 1.001  # accountants agree up to this factor


@dataclass(frozen=True)
class StudyShare:
    """What all runs of a study may spend at a site.

    Attributes:
        name: of the study, the same in all its versions.
        runs: how many runs it has.
        epsilon: of all of them together.
        delta: at which epsilon holds.
        expires_at: end of its last day, seconds since 1970.

    """

    name: str
    runs: int
    epsilon: float
    delta: float
    expires_at: float

    @property
    def key(self) -> str:
        """The name of its reservations in the ledger."""
        return f"study {self.name}"


def reserve_share(
    budget: PrivacyBudget,
    folder: Path,
    share: StudyShare,
    begun: Sequence[str],
    plan: PrivacyPlan,
    starting: Mapping[str, PrivacyPlan] | None = None,
) -> float:
    """Reserve what the runs of a study may still spend, or replace its earlier reservations.

    Args:
        budget: of the data set.
        folder: the site's private folder.
        share: of the study.
        begun: the runs that have touched the data.
        plan: of a run that has not begun.
        starting: plans of runs that are about to begin, by run id.

    Returns:
        Epsilon of all runs of the study together, at its delta.

    Raises:
        PrivacyError: all runs are used, they would spend more than the study states, or the budget does not allow it.

    """
    path = get_ledger_path(folder, budget.dataset)
    entries = verify_ledger(path) if path.exists() else ()
    planned = {run: get_plan_cost(each) for run, each in (starting or {}).items()}
    costs = {run: _find_begun_cost(entries, run, planned.get(run), get_plan_cost(plan)) for run in begun} | {
        run: cost for run, cost in planned.items() if run not in begun
    }
    if len(costs) > share.runs:
        raise PrivacyError(
            f"all {share.runs} runs of the study {share.name} are used", "The lead may publish a new version."
        )
    costs |= {f"{share.key} run {number}": get_plan_cost(plan) for number in range(len(costs), share.runs)}
    epsilon = compute_epsilon([event for cost in costs.values() for event in cost.events], share.delta)
    if epsilon > share.epsilon * _TOLERANCE:
        spent, stated = (format_epsilon(each, share.delta, digits=4) for each in (epsilon, share.epsilon))
        problem = f"the runs of the study {share.name} would spend {spent}, it states {stated}"
        raise PrivacyError(problem, "Ask the lead for a study that states what its runs spend.")
    try:
        budget.reserve_costs(folder, share.key, costs, share.expires_at, share.delta)
    except PrivacyError as fault:
        if not isinstance(fault.__cause__, BudgetExceededError):  # damaged, or in use
            raise
        problem = f"the share of the study {share.name} does not fit into the privacy budget of {budget.dataset}"
        raise PrivacyError(problem, "Other studies of these patients have spent or reserved it.") from fault
    return epsilon


def release_share(folder: Path, name: str) -> None:
    """Give back what a study has reserved and its runs have not spent.

    Raises:
        PrivacyError: a ledger is damaged or in use.

    """
    cancel_reservations(folder, f"study {name}")


def _find_begun_cost(entries: Sequence[LedgerEntry], run: str, planned: RunCost | None, usual: RunCost) -> RunCost:
    """Return what a run has spent and may still spend: by its plan if it goes on, else as reserved."""
    booked = tuple(get_booked_events(entries, run))
    if planned is not None:
        return replace(planned, events=(*booked, *compute_remaining_cost(planned, booked).events))
    now = entries[-1].time if entries else 0.0
    held = [each.cost for each in find_active_reservations(entries, now) if each.run == run]
    unit = held[0] if held else usual
    return replace(unit, events=(*booked, *(event for cost in held for event in cost.events)))
