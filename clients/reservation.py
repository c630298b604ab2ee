"""A site's answer to a sweep: it reserves what all runs together will spend, or says why not, before the first one.

Nothing is trained: what a run spends follows from its configuration and the bucketed size of the cohort.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress

from flwr.app import RecordDict

from clients.institution import Institution, Site, declined
from fedhealth.errors import DataError, PrivacyError
from fedhealth.privacy.accounting.budget import Allowance, give_back
from fedhealth.privacy.accounting.plan import PrivacyPlan
from fedhealth.protocol.budget_request import Statement
from fedhealth.protocol.job import Job, config_of
from fedhealth.protocol.messages import ACCEPTANCE, Acceptance, versions
from fedhealth.site.decline_reasons import STATED, say

log = logging.getLogger("fedhealth.site")
_ROUNDING = 1.001  # epsilons of accountants agree that far


def reserve(site: Site, jobs: Sequence[Job], statement: Statement, until: float) -> RecordDict:
    """Reserve for the runs that are still to come, instead of what the sweep had reserved; with none, give it back.

    Args:
        site: where.
        jobs: the sweep's runs, as this site accepts them.
        statement: the sweep's.
        until: when the reservation lapses, seconds since 1970.

    """
    try:
        spends = _held(site, jobs, statement, until)
    except PrivacyError as fault:
        log.warning("declined: %s", fault)
        with suppress(PrivacyError):  # another run has the ledger: it lapses
            give_back(site.folder, statement.sweep)
        return declined(site.name, [fault.problem])
    return RecordDict({ACCEPTANCE: Acceptance(site.name, (), {}, versions(), reserved=round(spends, 3)).record()})


def _held(site: Site, jobs: Sequence[Job], statement: Statement, until: float) -> float:
    """Reserve in the ledger of every data set; return the largest epsilon of them.

    Raises:
        PrivacyError: a budget does not allow it, or more would be spent than is stated.

    """
    allowances: dict[str, Allowance] = {}
    plans: dict[str, dict[str, PrivacyPlan]] = {}
    for job in jobs:
        if (foreseen := _foreseen(site, job)) is not None:
            allowance, plan = foreseen
            allowances[allowance.dataset] = allowance
            plans.setdefault(allowance.dataset, {})[job.run] = plan
    give_back(site.folder, statement.sweep, but=plans)
    kept = [allowances[name].hold(site.folder, statement.sweep, runs, until) for name, runs in plans.items()]
    spends = max(kept, default=0.0)
    if spends > statement.epsilon * _ROUNDING:
        raise PrivacyError(say(STATED, f"{statement.epsilon:.4g}", f"{spends:.4g}"), "State all of it.")
    return spends


def _foreseen(site: Site, job: Job) -> tuple[Allowance, PrivacyPlan] | None:
    """Return what a run will spend here, and of what; None where it spends nothing."""
    config = config_of(job)
    if site.name not in config.data.sites:
        return None
    try:
        return Institution(site, config, job.digest).foresee()
    except DataError:
        log.exception("run %s cannot read its data: it will fail and spend nothing", job.run)
        return None
