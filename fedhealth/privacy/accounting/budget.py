"""A site's privacy budget: what a run asks of it, what the site's policy leaves, and the ledger where both meet."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

from fedhealth.errors import PrivacyError
from fedhealth.privacy.accounting.accountant import Event, epsilon, epsilon_online
from fedhealth.privacy.accounting.ledger import Budget, Entry, Ledger, OverBudgetError
from fedhealth.privacy.accounting.ledger_folder import spent_path
from fedhealth.privacy.accounting.plan import Limits, PrivacyPlan, Request, make_plan
from fedhealth.privacy.accounting.reservations import Cost, events_of
from fedhealth.privacy.accounting.spending import Promise, ledger_path, ledgers, promise_path
from fedhealth.privacy.context import Place
from fedhealth.utils.atomic_io import write_json

_NO_DELTA = 1e-5  # where nothing is measured


@dataclass(frozen=True)
class Allowance:
    """What may be spent.

    Attributes:
        dataset: its name; one ledger each.
        epsilon: the most that one run may spend, by the run and by the site's policy.
        life: the most that all runs on the data set may spend together.
        min_sigma: the least noise, as a multiple of the clipping bound.
        min_cohort: the fewest units to train on.

    """

    dataset: str
    epsilon: float
    life: float = math.inf
    min_sigma: float = 0.0
    min_cohort: int = 1

    def __post_init__(self) -> None:
        if not self.dataset or Path(self.dataset).name != self.dataset or self.dataset.startswith("."):
            raise PrivacyError(f"{self.dataset!r} cannot name a ledger", "Give data.name a plain name.")

    def plan(self, request: Request, units: int) -> PrivacyPlan:
        """Return the whole run's plan for a cohort of `units`; the same on every call.

        Raises:
            PrivacyError: the cohort is too small, the target unreachable, or less noise asked than the policy demands.

        """
        return _plan(request, Limits(self.epsilon, self.min_sigma, self.min_cohort), units)

    @contextmanager
    def open(self, place: Place) -> Iterator[Ledger]:
        """Hold the data set's ledger; nobody else can spend meanwhile."""
        with Ledger.open(ledger_path(place.folder, self.dataset)) as ledger:
            yield ledger

    def book(self, ledger: Ledger, plan: PrivacyPlan, place: Place, number: int, event: Event) -> Entry:
        """Book an event before it happens.

        What was booked for a round of which nothing left (the process was killed) pays for its repetition.

        Raises:
            PrivacyError: the budget does not allow it, or the clock is behind; nothing is spent.

        """
        promise = Promise(place.run, plan.unit, self.epsilon, plan.delta, plan.sigma, plan.rounds)
        write_json(promise_path(place.folder, place.run), asdict(promise))
        if not place.released and (booked := _unused(ledger, place.run, number, event)) is not None:
            return booked
        booked = ledger.reserve(place.run, number, plan.unit, event, Budget(plan.delta, self.epsilon, self.life))
        _tell_monitor(ledger, ledger_path(place.folder, self.dataset), plan.delta)
        return booked

    def check(self, plan: PrivacyPlan, place: Place) -> None:
        """Raise what would stop the run later on, while nothing is spent yet.

        Where a sweep reserved something else for the run than it now asks for, that is kept instead.

        Raises:
            PrivacyError: the ledger is damaged or in use, ahead of the clock, or all rounds together exceed the life's
                budget.

        """
        with self.open(place) as ledger:
            entries, held = ledger.entries, ledger.reservations()
            if entries and time.time() < entries[-1].time - 60:
                raise PrivacyError("the clock is behind the privacy ledger's last entry", "Set the machine's clock.")
            earlier = [entry.event for entry in entries if entry.kind == "book" and entry.run != place.run]
            others = events_of([each for each in held if each.run != place.run])
            self._affordable([*earlier, *plan.run_events], others, plan.delta)
            ledger.amend(place.run, Cost(plan.unit, plan.run_events))

    def hold(self, folder: Path, sweep: str, plans: Mapping[str, PrivacyPlan], until: float) -> float:
        """Reserve what the runs of a sweep will spend, instead of what it had reserved; none gives it back.

        Args:
            folder: the site's private one.
            sweep: its id.
            plans: of its runs, by run id.
            until: when the reservation lapses, seconds since 1970.

        Returns:
            Epsilon of all these runs together, at the smallest of their deltas.

        Raises:
            PrivacyError: the budget does not allow it, the ledger is damaged or in use; nothing is reserved.

        """
        costs = {run: Cost(plan.unit, plan.run_events) for run, plan in plans.items()}
        delta = min((plan.delta for plan in plans.values()), default=_NO_DELTA)
        with Ledger.open(ledger_path(folder, self.dataset)) as ledger:
            try:
                ledger.hold(sweep, costs, until, Budget(delta, life=self.life))
            except OverBudgetError as fault:
                raise PrivacyError(
                    f"the runs of the sweep together would exceed the privacy budget of {self.dataset}", fault.advice
                ) from fault
        return epsilon([event for cost in costs.values() for event in cost.events], delta)

    def _affordable(self, events: Sequence[Event], reserved: Sequence[Event], delta: float) -> None:
        """Raise where the data set's budget for life is exceeded, or would be once what is reserved is spent."""
        if self.life == math.inf or epsilon([*events, *reserved], delta) <= self.life:
            return
        why = ", part of which is reserved for a sweep" if epsilon(events, delta) <= self.life else ""
        raise PrivacyError(
            f"the run would exceed the privacy budget of {self.dataset}{why}",
            "Ask for a smaller privacy.epsilon or for fewer rounds; `fedhealth site budget` shows what is spent.",
        )


def give_back(folder: Path, sweep: str, but: Collection[str] = ()) -> None:
    """Keep nothing any more of what a sweep reserved at a site, but for some data sets.

    Raises:
        PrivacyError: a ledger is damaged or in use.

    """
    for _, path in ledgers(folder):
        if path.stem not in but:
            with Ledger.open(path) as ledger:
                ledger.hold(sweep, {}, 0.0, Budget(_NO_DELTA))


def _tell_monitor(ledger: Ledger, path: Path, delta: float) -> None:
    spent = epsilon_online((entry.event for entry in ledger.entries if entry.kind == "book"), delta)
    write_json(spent_path(path), {"epsilon": spent, "delta": delta, "entries": len(ledger.entries)})


def _unused(ledger: Ledger, run: str, number: int, event: Event) -> Entry | None:
    """Return the last booking of a round that was never released; the same event only."""
    booked = [entry for entry in ledger.entries if (entry.kind, entry.run, entry.round) == ("book", run, number)]
    return booked[-1] if booked and booked[-1].event == event else None


@lru_cache(maxsize=32)
def _plan(request: Request, limits: Limits, units: int) -> PrivacyPlan:
    return make_plan(request, limits, units)
