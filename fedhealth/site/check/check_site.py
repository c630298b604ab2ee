"""The health check of a site: every check, in the order in which hospital IT fixes things."""

from __future__ import annotations

from collections.abc import Iterator

from fedhealth.errors import FedhealthError
from fedhealth.site.check.base import CheckResult, catch_errors, report_failure
from fedhealth.site.check.installation import check_installation
from fedhealth.site.check.kit import check_kit
from fedhealth.site.check.machine import check_machine
from fedhealth.site.check.network import check_network
from fedhealth.site.check.rules import (
    check_budget,
    check_keys,
    check_log,
    check_own_state,
    check_policy,
    check_studies,
)
from fedhealth.site.home import SiteHome
from fedhealth.site.own_report import record_check
from fedhealth.site.policy import Policy, load_policy


def check_site(home: SiteHome, overrides: tuple[str, ...] = ()) -> Iterator[CheckResult]:
    """Yield the result of every health check of a site.

    Args:
        home: the hospital's folder.
        overrides: of a run to try, as the lead gave them; empty for none.

    """
    reported = []  # to the lead: what does not depend on the data, and is known before they are read
    for check in check_installation():
        reported.append(check)
        yield check
    try:
        policy = load_policy(home)
    except FedhealthError as fault:
        yield report_failure("policy", fault.problem, fault.advice)
        return
    yield from check_policy(policy)
    for check in _check_connection(home, policy):
        reported.append(check)
        yield check
    record_check(home, reported)
    yield from catch_errors("machine", check_machine(home.path, policy.resources))
    yield from catch_errors("budget", check_budget(home, policy))
    yield from catch_errors("studies", check_studies(home))
    yield from catch_errors("audit log", check_log(home))
    if home.membership.is_file():
        yield from catch_errors("own state", check_own_state(home, policy))
    yield from _check_data(home, policy, overrides)


def _check_connection(home: SiteHome, policy: Policy) -> Iterator[CheckResult]:
    yield from catch_errors("keys", check_keys(home))
    yield from catch_errors("kit", check_kit(home, policy))
    if home.ca.is_file():
        yield from catch_errors("lead", check_network(policy.lead, home.ca, policy.proxy))


def _check_data(home: SiteHome, policy: Policy, overrides: tuple[str, ...]) -> Iterator[CheckResult]:
    from fedhealth.site.check.data import check_data  # imports torch, which takes seconds: after all quick checks

    yield from check_data(policy)
    if overrides:
        from fedhealth.site.check.trial import check_run

        yield from catch_errors("run", check_run(home, policy, overrides))
