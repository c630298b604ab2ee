"""Reserve the privacy budget of all runs of a sweep before the first one, or decline with a reason.

Nothing is trained: the budget of a run depends on its configuration and the bucketed size of the cohort only.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress

from flwr.app import RecordDict

from clients.context import SiteContext
from clients.institution import Institution, build_refusal
from fedhealth.errors import PrivacyError
from fedhealth.privacy.accounting.budget import PrivacyBudget, cancel_reservations
from fedhealth.privacy.accounting.plan import PrivacyPlan
from fedhealth.privacy.accounting.reservations import ReservedGuarantee
from fedhealth.protocol.budget_request import BudgetRequest
from fedhealth.protocol.job import Job, compose_job_config
from fedhealth.protocol.messages import ACCEPTANCE, Acceptance, get_versions
from fedhealth.site.decline_reasons import SWEEP_EPSILON_MISMATCH, format_reason
from fedhealth.utils.privacy_text import format_unit

log = logging.getLogger("fedhealth.site")
_EPSILON_TOLERANCE = 1.001  # accountants agree up to this factor


def reserve_sweep_budget(site: SiteContext, jobs: Sequence[Job], request: BudgetRequest, until: float) -> RecordDict:
    """Replace the sweep's reservation by one for the runs that are still to come; without runs, cancel it.

    Args:
        site: the site.
        jobs: the sweep's runs, with the overrides that this site accepts.
        request: the sweep's budget request.
        until: when the reservation expires, seconds since 1970.

    """
    try:
        epsilon = _reserve_in_ledgers(site, jobs, request, until)
    except PrivacyError as fault:
        log.warning("declined: %s", fault)
        with suppress(PrivacyError):  # another run has locked the ledger: the reservation will expire
            cancel_reservations(site.folder, request.sweep)
        return build_refusal(site.name, [fault.problem])
    return RecordDict({ACCEPTANCE: Acceptance(site.name, (), {}, get_versions(), reserved=round(epsilon, 3)).record()})


def _reserve_in_ledgers(site: SiteContext, jobs: Sequence[Job], request: BudgetRequest, until: float) -> float:
    """Reserve in the ledger of every data set; return the largest epsilon.

    Raises:
        PrivacyError: a budget is exhausted, or the runs would spend more than the sweep requests.
        PrivateTaskError: the data cannot be read.

    """
    budgets: dict[str, PrivacyBudget] = {}
    plans: dict[str, dict[str, PrivacyPlan]] = {}
    for job in jobs:
        if (planned := _plan_run(site, job)) is not None:
            budget, plan = planned
            budgets[budget.dataset] = budget
            plans.setdefault(budget.dataset, {})[job.run] = plan
    cancel_reservations(site.folder, request.sweep, except_datasets=plans)
    reserved = [budgets[name].reserve_runs(site.folder, request.sweep, runs, until) for name, runs in plans.items()]
    largest = max(reserved, key=lambda each: each.epsilon, default=None)
    if largest is None:
        return 0.0
    if largest.epsilon > request.epsilon * _EPSILON_TOLERANCE:
        raise PrivacyError(_describe_mismatch(request.epsilon, largest), "State all of it.")
    return largest.epsilon


def _describe_mismatch(requested: float, reserved: ReservedGuarantee) -> str:
    numbers = (f"{requested:.4g}", f"{reserved.stated_delta:.3g}", f"{reserved.epsilon:.4g}", f"{reserved.delta:.3g}")
    unit = "_or_".join(map(format_unit, reserved.units))
    return format_reason(SWEEP_EPSILON_MISMATCH, *numbers, unit, f"{reserved.noise_multiplier:.3g}")


def _plan_run(site: SiteContext, job: Job) -> tuple[PrivacyBudget, PrivacyPlan] | None:
    """Return the site's privacy budget and a run's plan; None if the run spends nothing here."""
    config = compose_job_config(job)
    if site.name not in config.data.sites:
        return None
    return Institution(site, config, job.digest).plan_run()
