"""`fedhealth status`: how one run stands, once; the exit code tells the state to scripts."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from fedhealth.lead.connect_control import query_server_status
from fedhealth.runs.run_dir import RunDir
from fedhealth.runs.run_status import Standing, standing

EXIT_CODES = {"completed": 0, "running": 12, "waiting": 13, "interrupted": 14, "stopped": 14, "failed": 15}


def run_status(run: str, as_json: bool) -> None:
    """Show how a run stands and end with the exit code of its state.

    Args:
        run: its folder, or the id (or its beginning) of a run that the lead sent to the hospitals.
        as_json: for programs.

    Raises:
        ConfigError: there is no such run.

    """
    found = standing(RunDir(_folder(run)), query_server_status)
    if as_json:
        account = asdict(found.account)
        listed = {"run": found.run, "name": found.name, "state": found.state, "folder": str(found.folder.resolve())}
        told = {"waiting_for": found.waiting_for, "error": found.error, "advice": found.advice}
        typer.echo(json.dumps({**listed, **account, **told}, indent=1))
    else:
        _show(found)
    raise typer.Exit(EXIT_CODES[found.state])


def _folder(run: str) -> Path:
    from fedhealth.lead.home import LeadHome
    from fedhealth.lead.job_store import jobs

    if Path(run).is_dir():
        return Path(run)
    named = [job for job in jobs(LeadHome.find(None)) if job.run.startswith(run)]
    return Path(named[0].folder if len(named) == 1 else run)


def _show(found: Standing) -> None:
    console, account = Console(highlight=False), found.account
    rounds = f" of {account.rounds}" if account.rounds else ""
    where = f", {account.phase}" if found.state in ("running", "waiting", "interrupted") else ""
    console.print(f"{found.name or found.folder.name} ({found.run}): [bold]{found.state}[/]{where}", soft_wrap=True)
    console.print(f"rounds completed: {account.completed}{rounds}; last event {_ago(account.at)}")
    if account.sites:
        console.print(_sites(found))
    for label, words in (
        ("waiting for", ", ".join(found.waiting_for)),
        ("error" if found.state == "failed" else "last trouble", found.error),
        ("what to do", found.advice),
    ):
        if words:
            console.print(f"{label}: {words}", markup=False, soft_wrap=True)


def _sites(found: Standing) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for column in ("Hospital", "State", "Last answer", "Why"):
        table.add_column(column, overflow="fold")
    for name, site in sorted(found.account.sites.items()):
        answered = f"{_ago(site.answered)}, took {site.seconds:.1f} s" if site.answered else ""
        table.add_row(name, site.state, answered, site.reason)
    return table


def _ago(at: float) -> str:
    """Return how long ago a moment was."""
    if not at:
        return "never"
    seconds = max(0.0, time.time() - at)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"
