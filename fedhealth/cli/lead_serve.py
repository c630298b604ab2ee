"""Implementation of `fedhealth lead serve`, `sites`, `runs`, `stop` and `logs`."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from fedhealth.cli.json_output import print_json
from fedhealth.cli.prompts import print_lines
from fedhealth.errors import ConfigError
from fedhealth.lead.home import LeadHome
from fedhealth.lead.job_store import iter_jobs, list_damaged_jobs
from fedhealth.protocol.job import Job
from fedhealth.runs.run_dir import RunDir
from fedhealth.utils.time_text import format_age

if TYPE_CHECKING:
    from fedhealth.lead.site_overview import SiteOverview


def run_serve(home: Path | None) -> None:
    """Serve until SIGTERM or Ctrl-C."""
    from fedhealth.lead.server import serve_superlink

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.getLogger("flwr").setLevel(logging.WARNING)  # it logs every request
    serve_superlink(LeadHome.find(home))


def run_sites(home: Path | None, as_json: bool) -> None:
    """Print what is known about every member."""
    from fedhealth.lead.site_overview import describe_problems, list_sites

    found = list_sites(LeadHome.find(home))
    if as_json:
        print_json(found)
        return
    table = _make_table("Hospital", "State", "Last contact", "Release", "Kit", "Last check", "Problem, and what to do")
    for site in found:
        table.add_row(site.site, site.state, *_describe_contact(site), describe_problems(site))
    Console().print(table)


def _describe_contact(site: SiteOverview) -> tuple[str, str, str, str]:
    """Return last contact, release, kit number and last check of a site."""
    contact = site.contact
    if contact is None:
        return "never", "", "", ""
    report = contact.report
    if report is None:
        return format_age(contact.time), "not reported", "", ""
    check = f"{report.result}, {format_age(report.checked)}" if report.checked else "never"
    return format_age(contact.time), report.release, str(report.kit), check


def run_runs(home: Path | None, as_json: bool) -> None:
    """Print the runs that were started here."""
    folder = LeadHome.find(home)
    found = [_describe_run(job) for job in iter_jobs(folder)]
    damaged = (f"WARNING: {path} is damaged and left out." for path in list_damaged_jobs(folder))
    print_lines(Console(stderr=True), *damaged)
    if as_json:
        print_json(found)
        return
    table = _make_table("Run", "State", "Started", "Folder")
    for each in found:
        table.add_row(*each.values())
    Console().print(table)


def _describe_run(job: Job) -> dict[str, str]:
    run = RunDir(Path(job.folder))
    info = run.info
    state = "reservation of a sweep" if job.budget_request else info.state if run.exists else "gone"
    return {"run": job.run, "state": state, "started": info.started, "folder": job.folder}


def run_stop(run: str, home: Path | None) -> None:
    """Stop a run in the hospitals."""
    from fedhealth.lead.connect_control import connect_control

    place = LeadHome.find(home)
    number = RunDir(Path(_find_job(place, run).folder)).info.flower_run
    if not number:
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
