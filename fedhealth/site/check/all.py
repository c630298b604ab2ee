"""Every check in the order in which hospital IT fixes things."""

from __future__ import annotations

from collections.abc import Iterator

from fedhealth.errors import FedhealthError
from fedhealth.site.check.contract import Check, failed, guarded
from fedhealth.site.check.installation import check_installation
from fedhealth.site.check.kit import check_kit
from fedhealth.site.check.machine import check_machine
from fedhealth.site.check.network import check_network
from fedhealth.site.check.rules import check_budget, check_keys, check_log, check_policy
from fedhealth.site.home import SiteHome
from fedhealth.site.policy import Policy, load_policy


def check_site(home: SiteHome, words: tuple[str, ...] = ()) -> Iterator[Check]:
    """Yield every check of a site.

    Args:
        home: the site's.
        words: override words of a run to be tried, as the lead tells them; empty for none.

    """
    yield from check_installation()
    try:
        policy = load_policy(home)
    except FedhealthError as fault:
        yield failed("policy", fault.problem, fault.advice)
        return
    yield from check_policy(policy)
    yield from guarded("keys", check_keys(home))
    yield from guarded("machine", check_machine(home.path, policy.resources))
    yield from guarded("kit", check_kit(home, policy))
    if home.ca.is_file():
        yield from guarded("lead", check_network(policy.lead, home.ca))
    yield from guarded("budget", check_budget(home, policy))
    yield from guarded("audit log", check_log(home))
    yield from _check_data(home, policy, words)


def _check_data(home: SiteHome, policy: Policy, words: tuple[str, ...]) -> Iterator[Check]:
    from fedhealth.site.check.data import check_data  # torch: seconds, after everything that is quick

    yield from check_data(policy)
    if words:
        from fedhealth.site.check.trial import check_run

        yield from guarded("run", check_run(home, policy, words))
