"""Implementation of `fedhealth site start`, `status`, `stop`, `pause`, `resume` and `leave`."""

from __future__ import annotations

import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console

from fedhealth.cli.json_output import print_json
from fedhealth.errors import ConfigError, FedhealthError
from fedhealth.flower.app_bundle import CLIENT_APP
from fedhealth.site.daemon_state import DaemonState
from fedhealth.site.home import SiteHome
from fedhealth.site.policy import load_policy
from fedhealth.utils.privacy_text import format_guarantee, format_local_epsilon

if TYPE_CHECKING:
    from fedhealth.privacy.accounting.spending import DatasetSpending

_KEPT = ("privacy ledgers", "audit log", "site.yaml")


def run_start(home: Path | None) -> None:
    """Run the site's daemon until SIGTERM or Ctrl-C.

    Raises:
        FedhealthError: the site is not set up, or is already running.

    """
    from fedhealth.monitor.site_metrics import SiteMetricsFile
    from fedhealth.site.daemon import SiteDaemon
    from fedhealth.site.log_file import configure_daemon_log

    place = SiteHome.find(home)
    if not place.membership.is_file():
        raise ConfigError(f"{place.path} has no join kit yet.", "Install it: `fedhealth site install KIT.zip`.")
    configure_daemon_log(place.log_file)
    runner = SiteDaemon(place, CLIENT_APP.replace(":", "."), SiteMetricsFile(place).write)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: runner.stopping.set())
    runner.serve()


def run_status(home: Path | None, as_json: bool) -> None:
    """Print the site's status, the spent privacy budget, and the last error."""
    place = SiteHome.find(home)
    about = DaemonState(place).status
    budgets, policy_fault = _load_spent_budgets(place), _find_policy_fault(place)
    if as_json:
        print_json(
            {
                **about,
                "policy_fault": policy_fault or None,
                "budgets": {each.dataset: _select_shown(each) for each in budgets},
            }
        )
        return
    console = Console(highlight=False)
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(about["updated"])) if "updated" in about else "never"
    console.print(
        f"{about.get('site', place.path.name)}: [bold]{about.get('state', 'stopped')}[/] (last update {since})"
    )
    if policy_fault:
        console.print(policy_fault, markup=False, soft_wrap=True)
    if reason := _find_restore_reason(place):
        console.print(reason, markup=False, soft_wrap=True)
    if DaemonState(place).is_paused:
        console.print("paused: no new work is accepted until `fedhealth site resume`")
    for label, key in (("lead", "lead"), ("run", "run"), ("task", "task"), ("last error", "error")):
        if about.get(key):
            console.print(f"{label}: {about[key]}", markup=False)
    for each in budgets:
        spent = format_guarantee(each.epsilon, each.delta, each.noise_multiplier, each.unit, digits=4)
        local = each.local_epsilon
        more = "" if local is None else f"; {format_local_epsilon(local, each.delta)}"
        console.print(f"{each.dataset}: all runs together spent {spent} or more{more}", markup=False, soft_wrap=True)


def run_stop(home: Path | None) -> None:
    """Stop the daemon; unfinished work is lost, stored results are not."""
    ended = DaemonState(SiteHome.find(home)).stop()
    typer.echo("stopped" if ended else "The site was not running.")


def run_pause(home: Path | None, paused: bool) -> None:
    """Stop accepting new work, or accept it again."""
    state = DaemonState(SiteHome.find(home))
    if paused:
        state.pause("command line")
    else:
        state.resume("command line")
    typer.echo("paused: no new work is accepted" if paused else "new work is accepted again")


def run_leave(home: Path | None, yes: bool) -> None:
    """End the membership on this side: remove the node's key, the kit and the approved members."""
    from fedhealth.site.audit_log import AuditLog

    place = SiteHome.find(home)
    if not yes and not typer.confirm(f"Leave the consortium permanently? {', '.join(_KEPT)} are kept."):
        raise typer.Abort
    DaemonState(place).stop()
    for path in (place.membership, place.ca, place.node_key, place.join_request, place.state / "roster.json"):
        path.unlink(missing_ok=True)
    AuditLog(place.audit).write("left the consortium")
    typer.echo(f"Left. {', '.join(_KEPT).capitalize()} are still in {place.path}. Tell the lead to revoke this site.")


def _load_spent_budgets(place: SiteHome) -> list[DatasetSpending]:
    """Return what all runs together spent, by data set."""
    from fedhealth.privacy.accounting.spending import iter_dataset_spending

    return list(iter_dataset_spending(place.state, load_lifetime_delta(place)))


def _find_policy_fault(place: SiteHome) -> str:
    """Return what is wrong with site.yaml and what to do; empty if it is valid."""
    try:
        load_policy(place)
    except ConfigError as fault:
        return str(fault)
    return ""


def _find_restore_reason(place: SiteHome) -> str:
    """Return what to do if this machine was restored from an older copy; empty if it was not."""
    from fedhealth.secagg.client.statement_book import RestoredSiteError
    from fedhealth.site.recovery import open_home_book

    try:
        open_home_book(place, load_policy(place)).require_current()
    except RestoredSiteError as fault:
        return str(fault)
    except FedhealthError:  # no kit yet, or no valid policy: `fedhealth site check` shows it
        return ""
    return ""


def load_lifetime_delta(place: SiteHome) -> float | None:
    """Return the delta at which the site's policy measures all runs together; None without a valid policy."""
    with suppress(ConfigError):
        return load_policy(place).limits.delta
    return None


def _select_shown(spent: DatasetSpending) -> dict[str, float | str | None]:
    return {
        "epsilon": spent.epsilon,
        "local_epsilon": spent.local_epsilon,
        "delta": spent.delta,
        "smallest_noise_multiplier": spent.noise_multiplier,
        "unit": spent.unit,
    }
