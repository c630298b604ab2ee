"""A site's privacy budget for a data set: it plans runs within the site's limits and books them in the ledger."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from fedhealth.errors import PrivacyError
from fedhealth.privacy.accounting.accountant import PrivacyEvent, compute_epsilon, compute_epsilon_rdp
from fedhealth.privacy.accounting.booking import find_open_booking
from fedhealth.privacy.accounting.ledger import Ledger, verify_ledger
from fedhealth.privacy.accounting.ledger_entry import (
    LIFETIME_DELTA,
    LedgerEntry,
    get_booked_events,
    get_patient_events,
)
from fedhealth.privacy.accounting.ledger_folder import find_ledgers, get_ledger_path, get_spending_summary_path
from fedhealth.privacy.accounting.limits import (
    BudgetExceededError,
    EpsilonLimits,
    find_failure_excess,
    find_lifetime_excess,
)
from fedhealth.privacy.accounting.plan import DEFAULT_DELTA, PlanConstraints, PrivacyPlan, PrivacyRequest, make_plan
from fedhealth.privacy.accounting.privacy_target import PrivacyTarget, save_target
from fedhealth.privacy.accounting.reservations import (
    ReservedGuarantee,
    RunCost,
    compute_remaining_cost,
    get_reserved_patient_events,
)
from fedhealth.privacy.accounting.study_total import find_study_excess
from fedhealth.privacy.context import AccountingContext
from fedhealth.utils.atomic_io import write_json

_CLOCK_TOLERANCE = 60.0  # seconds


@dataclass(frozen=True)
class PrivacyBudget:
    """What may be spent on a data set.

    Attributes:
        dataset: its name; every data set has its own ledger.
        epsilon: the most that one run may spend: the smaller of the run's and the site policy's limit.
        lifetime_epsilon: the most that all runs on the data set may spend together, for one patient.
        min_noise_multiplier: the least noise, as a multiple of the clipping bound.
        min_cohort: the fewest units to train on.
        lifetime_delta: at which the epsilon of all runs is measured.
        max_failures: the most tasks that may end in an error reply, of all runs together; None for no limit.
        local_epsilon: the most that one run may spend if everybody else colludes; it counts where noise is shared.
        lifetime_local_epsilon: the same for all runs on the data set together.

    """

    dataset: str
    epsilon: float
    lifetime_epsilon: float = math.inf
    min_noise_multiplier: float = 0.0
    min_cohort: int = 1
    lifetime_delta: float = LIFETIME_DELTA
    max_failures: int | None = None
    local_epsilon: float = math.inf
    lifetime_local_epsilon: float = math.inf

    def __post_init__(self) -> None:
        if not self.dataset or Path(self.dataset).name != self.dataset or self.dataset.startswith("."):
            raise PrivacyError(f"{self.dataset!r} cannot name a ledger", "Give data.name a plain name.")

    def make_plan(self, request: PrivacyRequest, units: int) -> PrivacyPlan:
        """Return the whole run's plan for a cohort of `units`; the same on every call.

        Raises:
            PrivacyError: the cohort is too small, the target epsilon cannot be reached, or the run asks for less noise
                than the policy demands.

        """
        constraints = PlanConstraints(self.epsilon, self.min_noise_multiplier, self.min_cohort, self.local_epsilon)
        return _make_cached_plan(request, constraints, units)

    @contextmanager
    def open_ledger(self, folder: Path, wait: float = 0.0) -> Iterator[Ledger]:
        """Open the data set's ledger in a site's folder and hold its lock: no other process can spend meanwhile.

        Another holder is waited for `wait` seconds at most.
        """
        with Ledger.open(get_ledger_path(folder, self.dataset), wait=wait) as ledger:
            yield ledger

    def check_failures(self, folder: Path) -> None:
        """Check, before any data are touched, that not too many tasks on the data set have failed.

        Args:
            folder: the site's private folder.

        Raises:
            BudgetExceededError: too many have failed.
            PrivacyError: the ledger is damaged.

        """
        path = get_ledger_path(folder, self.dataset)
        _check_failures(verify_ledger(path) if path.exists() else (), self._get_limits(DEFAULT_DELTA))

    def check_run(self, plan: PrivacyPlan, accounting: AccountingContext) -> None:
        """Check, before anything is spent, that the budget allows the whole run, and store what it promises.

        If a sweep reserved something else for the run than it now costs, the reservation is updated.

        Raises:
            PrivacyError: the ledger is damaged or in use, its last entry is ahead of the clock, all rounds together
                exceed the lifetime budget or the total of the run's study, or too many tasks on the data set have
                failed.

        """
        with self.open_ledger(accounting.folder) as ledger:
            _check_clock(ledger)
            _check_failures(ledger.entries, self._get_limits(plan.delta))
            self._check_lifetime(ledger, plan, accounting.run)
            _check_study(ledger, plan, accounting)
            ledger.update_reservation(accounting.run, get_plan_cost(plan))
        self._save_target(plan, accounting)

    def book(
        self, ledger: Ledger, plan: PrivacyPlan, accounting: AccountingContext, event: PrivacyEvent
    ) -> LedgerEntry:
        """Book an event before it happens, or try again under the open booking of the run and purpose.

        A booking is open if nothing of it has left the site, for example because the process was killed. It is used
        again for an equal event, whatever its round, but only a few times: afterwards it counts as failed.

        Raises:
            PrivacyError: the budget does not allow it, or the clock was set back; nothing is spent.

        """
        self._save_target(plan, accounting)
        earlier = find_open_booking(ledger.entries, accounting.run, accounting.purpose)
        if earlier is not None and earlier.can_retry(event):
            ledger.update_booking("retry", earlier, accounting.round, exchange=accounting.exchange)
            return earlier.entry
        if earlier is not None:
            ledger.update_booking("fail", earlier, earlier.rounds[-1])
        entry = ledger.book(
            accounting.run,
            accounting.round,
            plan.unit,
            event,
            replace(self._get_limits(plan.delta), study=accounting.study),
            max_records_per_patient=plan.max_records_per_patient,
            purpose=accounting.purpose,
            exchange=accounting.exchange,
        )
        write_spending_summary(ledger, get_ledger_path(accounting.folder, self.dataset), self.lifetime_delta)
        return entry

    def reserve_runs(
        self, folder: Path, sweep: str, plans: Mapping[str, PrivacyPlan], expires_at: float
    ) -> ReservedGuarantee:
        """Reserve what the runs of a sweep will spend; this replaces the sweep's earlier reservations.

        Args:
            folder: the site's private folder.
            sweep: the sweep's id.
            plans: of its runs, by run id; at least one.
            expires_at: when the reservations expire, seconds since 1970.

        Returns:
            What all these runs may spend together.

        Raises:
            PrivacyError: the budget does not allow it, or the ledger is damaged or in use; nothing is reserved.

        """
        costs = {run: get_plan_cost(plan) for run, plan in plans.items()}
        delta = min(plan.delta for plan in plans.values())
        self.reserve_costs(folder, sweep, costs, expires_at, delta)
        return ReservedGuarantee(
            epsilon=compute_epsilon([event for cost in costs.values() for event in cost.events], delta),
            delta=delta,
            stated_delta=sum(plan.delta for plan in plans.values()),
            units=tuple(sorted({plan.unit for plan in plans.values()})),
            noise_multiplier=min(plan.noise_multiplier for plan in plans.values()),
        )

    def reserve_costs(
        self, folder: Path, sweep: str, costs: Mapping[str, RunCost], expires_at: float, delta: float
    ) -> None:
        """Reserve what each run costs; this replaces the earlier reservations of a sweep.

        Args:
            folder: the site's private folder.
            sweep: its id.
            costs: of whole runs, by run id.
            expires_at: when the reservations expire, seconds since 1970.
            delta: at which one run is measured.

        Raises:
            PrivacyError: the budget does not allow it, or the ledger is damaged or in use; nothing is reserved.

        """
        with self.open_ledger(folder) as ledger:
            try:
                self.reserve_in_ledger(ledger, sweep, costs, expires_at, delta)
            except BudgetExceededError as fault:
                raise PrivacyError(
                    f"the runs of the sweep together would exceed the privacy budget of {self.dataset}", fault.advice
                ) from fault

    def reserve_in_ledger(
        self, ledger: Ledger, key: str, costs: Mapping[str, RunCost], expires_at: float, delta: float
    ) -> None:
        """Reserve what each run costs in the data set's open ledger; `key` is the id of a sweep or study.

        Raises:
            BudgetExceededError: the budget does not allow it; nothing is reserved.
            PrivacyError: the clock was set back.

        """
        ledger.reserve(key, costs, expires_at, self._get_limits(delta))

    def _check_lifetime(self, ledger: Ledger, plan: PrivacyPlan, run: str) -> None:
        """Raise if the run would exceed the lifetime budget, by what is booked or by what is reserved for others."""
        limits = self._get_limits(plan.delta)
        remaining = compute_remaining_cost(get_plan_cost(plan), get_booked_events(ledger.entries, run))
        reserved = get_reserved_patient_events([each for each in ledger.get_reservations() if each.run != run])
        events = [*get_patient_events(ledger.entries), *remaining.patient_events]
        if not find_lifetime_excess([*events, *reserved], limits):
            return
        detail = "" if find_lifetime_excess(events, limits) else ", part of which is reserved for a sweep"
        raise PrivacyError(
            f"the run would exceed the privacy budget of {self.dataset}{detail}",
            "Ask for a smaller privacy.epsilon or for fewer rounds; `fedhealth site budget` shows what is spent.",
        )

    def _save_target(self, plan: PrivacyPlan, accounting: AccountingContext) -> None:
        numbers = (self.epsilon, plan.delta, plan.noise_multiplier, plan.rounds)
        most, releases = plan.max_records_per_patient, plan.release_events
        target = PrivacyTarget(accounting.run, plan.unit, *numbers, self.dataset, releases, most, plan.run_events)
        save_target(accounting.folder, target)

    def _get_limits(self, delta: float) -> EpsilonLimits:
        return EpsilonLimits(
            delta,
            self.epsilon,
            self.lifetime_epsilon,
            self.lifetime_delta,
            self.max_failures,
            self.local_epsilon,
            self.lifetime_local_epsilon,
        )


def cancel_reservations(folder: Path, sweep: str, except_datasets: Collection[str] = ()) -> None:
    """Cancel a sweep's reservations in all ledgers of a site, except those of some data sets.

    Raises:
        PrivacyError: a ledger is damaged or in use.

    """
    for _, path in find_ledgers(folder):
        if path.stem not in except_datasets:
            with Ledger.open(path) as ledger:
                ledger.reserve(sweep, {}, 0.0, EpsilonLimits(DEFAULT_DELTA))


def _check_clock(ledger: Ledger) -> None:
    if ledger.entries and time.time() < ledger.entries[-1].time - _CLOCK_TOLERANCE:
        raise PrivacyError("the clock is behind the privacy ledger's last entry", "Set the machine's clock.")


def _check_failures(entries: Sequence[LedgerEntry], limits: EpsilonLimits) -> None:
    if excess := find_failure_excess(entries, limits):
        raise BudgetExceededError(excess, "Find the cause in the site's log before you raise that limit.")


def _check_study(ledger: Ledger, plan: PrivacyPlan, accounting: AccountingContext) -> None:
    """Raise if the whole run would exceed the total of its study."""
    if accounting.study is None:
        return
    remaining = compute_remaining_cost(get_plan_cost(plan), get_booked_events(ledger.entries, accounting.run))
    if excess := find_study_excess(
        ledger.entries, ledger.get_reservations(), remaining.events, accounting.study, accounting.run
    ):
        raise PrivacyError(excess, "Ask the lead for a study that states what its runs spend.")


def write_spending_summary(ledger: Ledger, path: Path, delta: float) -> None:
    """Write the total epsilon for one patient, for monitors; the ledger has it too, so a power cut may lose it."""
    epsilon = compute_epsilon_rdp(get_patient_events(ledger.entries), delta)
    content = {"epsilon": epsilon, "delta": delta, "entries": len(ledger.entries)}
    write_json(get_spending_summary_path(path), content, durable=False)


def get_plan_cost(plan: PrivacyPlan) -> RunCost:
    """Return what a whole run of a plan spends."""
    return RunCost(plan.unit, plan.run_events, plan.max_records_per_patient)


@lru_cache(maxsize=32)
def _make_cached_plan(request: PrivacyRequest, constraints: PlanConstraints, units: int) -> PrivacyPlan:
    return make_plan(request, constraints, units)
