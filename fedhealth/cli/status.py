"""`fedhealth status`: print the status of one run; the exit code is the state, for scripts."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fedhealth.cli.prompts import print_lines
from fedhealth.lead.connect_control import query_server_status
from fedhealth.runs.run_dir import RunDir
from fedhealth.runs.run_status import RunStatus, get_run_status
from fedhealth.utils.readable_text import escape_invisible
from fedhealth.utils.time_text import format_age

EXIT_CODES = {"completed": 0, "running": 12, "waiting": 13, "interrupted": 14, "stopped": 14, "failed": 15}


def run_status(run: str, as_json: bool) -> None:
    """Print the status of a run and exit with the exit code of its state.

    Args:
        run: its folder, or the id (or its first characters) of a run that the lead sent to the hospitals.
        as_json: print JSON, for programs.

    Raises:
        ConfigError: there is no such run.

    """
    found = get_run_status(RunDir(_find_run_dir(run)), query_server_status)
    if as_json:
        account = asdict(found.summary)
        listed = {"run": found.run, "name": found.name, "state": found.state, "folder": str(found.folder.resolve())}
        details = {"waiting_for": found.waiting_for, "error": found.error, "advice": found.advice}
        typer.echo(json.dumps({**listed, **account, **details}, indent=1))
    else:
        _print_status(found)
    raise typer.Exit(EXIT_CODES[found.state])


def _find_run_dir(run: str) -> Path:
    from fedhealth.lead.home import LeadHome
    from fedhealth.lead.job_store import iter_jobs

    if Path(run).is_dir():
        return Path(run)
    named = [job for job in iter_jobs(LeadHome.find(None)) if job.run.startswith(run)]
    return Path(named[0].folder if len(named) == 1 else run)


def _print_status(found: RunStatus) -> None:
    console, account = Console(highlight=False), found.summary
    rounds = f" of {account.rounds}" if account.rounds else ""
    where = f", {account.phase}" if found.state in ("running", "waiting", "interrupted") else ""
    title = escape(escape_invisible(f"{found.name or found.folder.name} ({found.run})"))
    console.print(f"{title}: [bold]{found.state}[/]{where}", soft_wrap=True)
    console.print(f"rounds completed: {account.completed}{rounds}; last event {format_age(account.at)}")
    if account.sites:
        console.print(_build_site_table(found))
    for label, text in (
        ("waiting for", ", ".join(found.waiting_for)),
        ("error" if found.state == "failed" else "last problem", found.error),
        ("what to do", found.advice),
    ):
        if text:
            print_lines(console, f"{label}: {text}")


def _build_site_table(found: RunStatus) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for column in ("Hospital", "State", "Last reply", "Why"):
        table.add_column(column, overflow="fold")
    for name, site in sorted(found.summary.sites.items()):
        answered = f"{format_age(site.answered)}, took {site.seconds:.1f} s" if site.answered else ""
        texts = name, site.state, answered, f"{site.reason}\n{site.fix}".strip()
        table.add_row(*(escape(escape_invisible(text)) for text in texts))
    return table
