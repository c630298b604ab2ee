"""A site's privacy budget for a data set: it plans runs within the site's limits and books them in the ledger."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from fedhealth.errors import PrivacyError
from fedhealth.privacy.accounting.accountant import PrivacyEvent, compute_epsilon, compute_epsilon_rdp
from fedhealth.privacy.accounting.ledger import BudgetExceededError, EpsilonLimits, Ledger
from fedhealth.privacy.accounting.ledger_entry import LedgerEntry, get_booked_events
from fedhealth.privacy.accounting.ledger_folder import find_ledgers, get_ledger_path, get_spending_summary_path
from fedhealth.privacy.accounting.plan import PlanConstraints, PrivacyPlan, PrivacyRequest, make_plan
from fedhealth.privacy.accounting.privacy_target import PrivacyTarget, save_target
from fedhealth.privacy.accounting.reservations import RunCost, get_reserved_events
from fedhealth.privacy.context import AccountingContext
from fedhealth.utils.atomic_io import write_json

_UNUSED_DELTA = 1e-5  # where nothing is measured
_CLOCK_TOLERANCE = 60.0  # seconds


@dataclass(frozen=True)
class PrivacyBudget:
    """What may be spent on a data set.

    Attributes:
        dataset: its name; every data set has its own ledger.
        epsilon: the most that one run may spend: the smaller of the run's and the site policy's limit.
        lifetime_epsilon: the most that all runs on the data set may spend together.
        min_noise_multiplier: the least noise, as a multiple of the clipping bound.
        min_cohort: the fewest units to train on.

    """

    dataset: str
    epsilon: float
    lifetime_epsilon: float = math.inf
    min_noise_multiplier: float = 0.0
    min_cohort: int = 1

    def __post_init__(self) -> None:
        if not self.dataset or Path(self.dataset).name != self.dataset or self.dataset.startswith("."):
            raise PrivacyError(f"{self.dataset!r} cannot name a ledger", "Give data.name a plain name.")

    def make_plan(self, request: PrivacyRequest, units: int) -> PrivacyPlan:
        """Return the whole run's plan for a cohort of `units`; the same on every call.

        Raises:
            PrivacyError: the cohort is too small, the target epsilon cannot be reached, or the run asks for less noise
                than the policy demands.

        """
        constraints = PlanConstraints(self.epsilon, self.min_noise_multiplier, self.min_cohort)
        return _make_cached_plan(request, constraints, units)

    @contextmanager
    def open_ledger(self, folder: Path) -> Iterator[Ledger]:
        """Open the data set's ledger in a site's folder and hold its lock: no other process can spend meanwhile."""
        with Ledger.open(get_ledger_path(folder, self.dataset)) as ledger:
            yield ledger

    def check_run(self, plan: PrivacyPlan, accounting: AccountingContext) -> None:
        """Check, before anything is spent, that the budget allows the whole run.

        If a sweep reserved something else for the run than it now costs, the reservation is updated.

        Raises:
            PrivacyError: the ledger is damaged or in use, its last entry is ahead of the clock, or all rounds together
                exceed the lifetime budget.

        """
        with self.open_ledger(accounting.folder) as ledger:
            _check_clock(ledger)
            self._check_lifetime(ledger, plan, accounting.run)
            ledger.update_reservation(accounting.run, RunCost(plan.unit, plan.run_events))

    def book(
        self, ledger: Ledger, plan: PrivacyPlan, accounting: AccountingContext, round_: int, event: PrivacyEvent
    ) -> LedgerEntry:
        """Book an event before it happens.

        A round of which nothing was released (the process was killed) is repeated under its earlier booking.

        Raises:
            PrivacyError: the budget does not allow it, or the clock was set back; nothing is spent.

        """
        noise_multiplier, rounds = plan.noise_multiplier, plan.rounds
        target = PrivacyTarget(accounting.run, plan.unit, self.epsilon, plan.delta, noise_multiplier, rounds)
        save_target(accounting.folder, target)
        if (
            not accounting.may_be_released
            and (earlier := _find_booking(ledger, accounting.run, round_, event)) is not None
        ):
            return earlier
        limits = EpsilonLimits(plan.delta, self.epsilon, self.lifetime_epsilon)
        entry = ledger.book(accounting.run, round_, plan.unit, event, limits)
        _write_spending_summary(ledger, get_ledger_path(accounting.folder, self.dataset), plan.delta)
        return entry

    def reserve_runs(self, folder: Path, sweep: str, plans: Mapping[str, PrivacyPlan], expires_at: float) -> float:
        """Reserve what the runs of a sweep will spend; this replaces the sweep's earlier reservations.

        Args:
            folder: the site's private folder.
            sweep: the sweep's id.
            plans: of its runs, by run id; empty cancels the reservations.
            expires_at: when the reservations expire, seconds since 1970.

        Returns:
            Epsilon of all these runs together, at the smallest of their deltas.

        Raises:
            PrivacyError: the budget does not allow it, or the ledger is damaged or in use; nothing is reserved.

        """
        costs = {run: RunCost(plan.unit, plan.run_events) for run, plan in plans.items()}
        delta = min((plan.delta for plan in plans.values()), default=_UNUSED_DELTA)
        with self.open_ledger(folder) as ledger:
            try:
                limits = EpsilonLimits(delta, lifetime_epsilon=self.lifetime_epsilon)
                ledger.reserve(sweep, costs, expires_at, limits)
            except BudgetExceededError as fault:
                raise PrivacyError(
                    f"the runs of the sweep together would exceed the privacy budget of {self.dataset}", fault.advice
                ) from fault
        return compute_epsilon([event for cost in costs.values() for event in cost.events], delta)

    def _check_lifetime(self, ledger: Ledger, plan: PrivacyPlan, run: str) -> None:
        """Raise if the run would exceed the lifetime budget, by what is booked or by what is reserved for others."""
        if self.lifetime_epsilon == math.inf:
            return
        earlier = [entry.event for entry in ledger.entries if entry.kind == "book" and entry.run != run]
        reserved = get_reserved_events([each for each in ledger.get_reservations() if each.run != run])
        events = [*earlier, *plan.run_events]
        if compute_epsilon([*events, *reserved], plan.delta) <= self.lifetime_epsilon:
            return
        fits = compute_epsilon(events, plan.delta) <= self.lifetime_epsilon
        detail = ", part of which is reserved for a sweep" if fits else ""
        raise PrivacyError(
            f"the run would exceed the privacy budget of {self.dataset}{detail}",
            "Ask for a smaller privacy.epsilon or for fewer rounds; `fedhealth site budget` shows what is spent.",
        )


def cancel_reservations(folder: Path, sweep: str, except_datasets: Collection[str] = ()) -> None:
    """Cancel a sweep's reservations in all ledgers of a site, except those of some data sets.

    Raises:
        PrivacyError: a ledger is damaged or in use.

    """
    for _, path in find_ledgers(folder):
        if path.stem not in except_datasets:
            with Ledger.open(path) as ledger:
                ledger.reserve(sweep, {}, 0.0, EpsilonLimits(_UNUSED_DELTA))


def _check_clock(ledger: Ledger) -> None:
    if ledger.entries and time.time() < ledger.entries[-1].time - _CLOCK_TOLERANCE:
        raise PrivacyError("the clock is behind the privacy ledger's last entry", "Set the machine's clock.")


def _write_spending_summary(ledger: Ledger, path: Path, delta: float) -> None:
    """Write the total epsilon for monitors."""
    epsilon = compute_epsilon_rdp(get_booked_events(ledger.entries), delta)
    content = {"epsilon": epsilon, "delta": delta, "entries": len(ledger.entries)}
    write_json(get_spending_summary_path(path), content)


def _find_booking(ledger: Ledger, run: str, round_: int, event: PrivacyEvent) -> LedgerEntry | None:
    """Return the last booking of a round, if it is the same event."""
    booked = [entry for entry in ledger.entries if (entry.kind, entry.run, entry.round) == ("book", run, round_)]
    return booked[-1] if booked and booked[-1].event == event else None


@lru_cache(maxsize=32)
def _make_cached_plan(request: PrivacyRequest, constraints: PlanConstraints, units: int) -> PrivacyPlan:
    return make_plan(request, constraints, units)
