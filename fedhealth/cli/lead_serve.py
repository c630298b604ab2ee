"""Implementation of `fedhealth lead serve`, `sites`, `runs`, `stop` and `logs`."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from fedhealth.errors import ConfigError
from fedhealth.lead.home import LeadHome
from fedhealth.lead.job_store import iter_jobs
from fedhealth.protocol.job import Job
from fedhealth.runs.run_dir import RunDir


def run_serve(home: Path | None) -> None:
    """Serve until SIGTERM or Ctrl-C."""
    from fedhealth.lead.server import serve_superlink

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.getLogger("flwr").setLevel(logging.WARNING)  # it logs every request
    serve_superlink(LeadHome.find(home))


def run_sites(home: Path | None) -> None:
    """Print which members are connected."""
    from fedhealth.lead.connect_control import connect_control

    place = LeadHome.find(home)
    with connect_control(place) as control:
        nodes = {node.public_key.strip(): node for node in control.list_nodes()}
    table = _make_table("Hospital", "State", "Since")
    for member in place.load_members():
        node = nodes.get(member.node.strip())
        table.add_row(member.site, node.status if node else "not registered", node.last_activated_at if node else "")
    Console().print(table)


def run_runs(home: Path | None) -> None:
    """Print the runs that were started here."""
    table = _make_table("Run", "State", "Started", "Folder")
    for job in iter_jobs(LeadHome.find(home)):
        about = RunDir(Path(job.folder)).info
        state = "reservation of a sweep" if job.budget_request else str(about.get("state", "gone"))
        table.add_row(job.run, state, str(about.get("started", "")), job.folder)
    Console().print(table)


def run_stop(run: str, home: Path | None) -> None:
    """Stop a run in the hospitals."""
    from fedhealth.lead.connect_control import connect_control

    place = LeadHome.find(home)
    number = RunDir(Path(_find_job(place, run).folder)).info.get("flower_run")
    if number is None:
        raise ConfigError(f"Run {run} was never started.", "`fedhealth lead runs` lists the runs.")
    with connect_control(place) as control:
        running = control.get_run(int(number)).status != "finished"
        if running:
            control.stop_run(int(number))
    typer.echo("stopped" if running else "The run has already ended.")


def run_logs(run: str, home: Path | None) -> None:
    """Print a run's log."""
    path = Path(_find_job(LeadHome.find(home), run).folder) / "fedhealth.log"
    typer.echo(path.read_text("utf-8") if path.is_file() else "", nl=False)


def _find_job(home: LeadHome, run: str) -> Job:
    found = [job for job in iter_jobs(home) if job.run.startswith(run)]
    if len(found) != 1:
        raise ConfigError(f"{run!r} matches {len(found)} runs.", "`fedhealth lead runs` lists them.")
    return found[0]


def _make_table(*columns: str) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
