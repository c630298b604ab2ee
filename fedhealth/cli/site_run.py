"""What `fedhealth site start`, `status`, `stop`, `pause`, `resume` and `leave` do."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import typer
from rich.console import Console

from fedhealth.errors import ConfigError
from fedhealth.site.daemon_state import SiteState
from fedhealth.site.home import SiteHome

APPLICATION = "clients.app.app"
_KEPT = ("privacy ledgers", "audit log", "site.yaml")


def run_start(home: Path | None) -> None:
    """Serve until SIGTERM or Ctrl-C.

    Raises:
        FedhealthError: the site is not set up, or is running already.

    """
    from fedhealth.monitor.site_metrics import MetricsFile
    from fedhealth.site.daemon import Runner, log_to

    place = SiteHome.find(home)
    if not place.membership.is_file():
        raise ConfigError(f"{place.path} has no kit yet.", "`fedhealth site install KIT.zip` brings it.")
    log_to(place.run / "site.log")
    runner = Runner(place, APPLICATION, MetricsFile(place).write)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: runner.stopping.set())
    runner.serve()


def run_status(home: Path | None, as_json: bool) -> None:
    """Show how the site stands, what is spent, and the last error."""
    place = SiteHome.find(home)
    about = SiteState(place).about
    budgets = _budgets(place)
    if as_json:
        typer.echo(json.dumps({**about, "budgets": budgets}, indent=1))
        return
    console = Console(highlight=False)
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(about["updated"])) if "updated" in about else "never"
    console.print(f"{about.get('site', place.path.name)}: [bold]{about.get('state', 'stopped')}[/] (last word {since})")
    if SiteState(place).paused:
        console.print("paused: no new work is taken; `fedhealth site resume` ends it")
    for label, key in (("lead", "lead"), ("run", "run"), ("task", "task"), ("last error", "error")):
        if about.get(key):
            console.print(f"{label}: {about[key]}", markup=False)
    for name, spent in budgets.items():
        console.print(f"{name}: epsilon {spent:.3f} spent in all", markup=False)


def run_stop(home: Path | None) -> None:
    """End the runner; what it works on is lost, what it kept is not."""
    ended = SiteState(SiteHome.find(home)).stop()
    typer.echo("stopped" if ended else "The site was not running.")


def run_pause(home: Path | None, paused: bool) -> None:
    """Take no new work, or take it again."""
    state = SiteState(SiteHome.find(home))
    if paused:
        state.pause()
    else:
        state.resume()
    typer.echo("paused: no new work is taken" if paused else "work is taken again")


def run_leave(home: Path | None, yes: bool) -> None:
    """End the membership at this side: the node's key, the kit and the approved members are removed."""
    from fedhealth.site.audit_log import AuditLog

    place = SiteHome.find(home)
    if not yes and not typer.confirm(f"Leave the consortium for good? Kept are {', '.join(_KEPT)}."):
        raise typer.Abort
    SiteState(place).stop()
    for path in (place.membership, place.ca, place.node_key, place.request, place.state / "roster.json"):
        path.unlink(missing_ok=True)
    AuditLog(place.audit).write("left the consortium")
    typer.echo(f"Left. {', '.join(_KEPT).capitalize()} are still in {place.path}. Tell the lead to revoke this site.")


def _budgets(place: SiteHome) -> dict[str, float]:
    """Return what is spent in all, by data set."""
    from fedhealth.privacy.accounting.spending import in_all, ledgers

    return {path.stem: in_all(path, None)[0] for _, path in ledgers(place.state)}
