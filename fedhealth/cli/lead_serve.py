"""What `fedhealth lead serve`, `sites`, `runs`, `stop` and `logs` do."""

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
from fedhealth.lead.job_store import jobs
from fedhealth.protocol.job import Job
from fedhealth.runs.run_dir import RunDir


def run_serve(home: Path | None) -> None:
    """Serve until SIGTERM or Ctrl-C."""
    from fedhealth.lead.server import serve

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.getLogger("flwr").setLevel(logging.WARNING)  # a line for each request otherwise
    serve(LeadHome.find(home))


def run_sites(home: Path | None) -> None:
    """Show which members are connected."""
    from fedhealth.lead.connect_control import connect_control

    place = LeadHome.find(home)
    with connect_control(place) as control:
        nodes = {node.public.strip(): node for node in control.nodes()}
    table = _table("Hospital", "State", "Since")
    for member in place.members():
        node = nodes.get(member.node.strip())
        table.add_row(member.site, node.status if node else "not registered", node.since if node else "")
    Console().print(table)


def run_runs(home: Path | None) -> None:
    """Show the runs that were started here."""
    table = _table("Run", "State", "Started", "Folder")
    for job in jobs(LeadHome.find(home)):
        about = RunDir(Path(job.folder)).about
        state = "reservation of a sweep" if job.statement else str(about.get("state", "gone"))
        table.add_row(job.run, state, str(about.get("started", "")), job.folder)
    Console().print(table)


def run_stop(run: str, home: Path | None) -> None:
    """Stop a run in the hospitals."""
    from fedhealth.lead.connect_control import connect_control

    place = LeadHome.find(home)
    number = RunDir(Path(_job(place, run).folder)).about.get("flower_run")
    if number is None:
        raise ConfigError(f"Run {run} was never started.", "`fedhealth lead runs` lists the runs.")
    with connect_control(place) as control:
        running = control.run(int(number)).status != "finished"
        if running:
            control.stop(int(number))
    typer.echo("stopped" if running else "The run has ended already.")


def run_logs(run: str, home: Path | None) -> None:
    """Print a run's log."""
    path = Path(_job(LeadHome.find(home), run).folder) / "fedhealth.log"
    typer.echo(path.read_text("utf-8") if path.is_file() else "", nl=False)


def _job(home: LeadHome, run: str) -> Job:
    found = [job for job in jobs(home) if job.run.startswith(run)]
    if len(found) != 1:
        raise ConfigError(f"{run!r} names {len(found)} runs.", "`fedhealth lead runs` lists them.")
    return found[0]


def _table(*columns: str) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
