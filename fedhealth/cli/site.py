"""`fedhealth site`: commands for the staff of one hospital."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedhealth.cli import site_audit, site_data, site_runs, site_study
from fedhealth.cli.options import Json, Port, SiteFolder

app = typer.Typer(no_args_is_help=True, help="Commands for the staff of one hospital.")
app.add_typer(site_audit.app, name="audit")
app.add_typer(site_data.app, name="data")
app.add_typer(site_runs.app, name="runs")
app.add_typer(site_study.app, name="study")


@app.callback()
def _root() -> None:
    """Commands for the staff of one hospital."""


@app.command()
def init(
    name: Annotated[str, typer.Option(help="The hospital's name in the consortium: lower case, digits, . _ and -.")],
    lead: Annotated[str, typer.Option(help="host:port of the lead's server.")],
    home: SiteFolder = None,
) -> None:
    """Create the hospital's keys, its join request and a strict site.yaml; existing files are kept."""
    from fedhealth.cli.site_setup import run_init

    run_init(name, lead, home)


@app.command()
def install(
    kit: Annotated[Path, typer.Argument(help="The zip file that the lead sent.")],
    fingerprint: Annotated[
        str | None, typer.Option(help="The fingerprint that the lead told you; without it, you are asked.")
    ] = None,
    home: SiteFolder = None,
) -> None:
    """Check the lead's kit, show its members, and install it after comparing the fingerprint."""
    from fedhealth.cli.site_setup import run_install

    run_install(kit, fingerprint, home)


@app.command()
def setup(
    answers: Annotated[Path | None, typer.Argument(help="setup.yaml; without it, you are asked.")] = None,
    kit: Annotated[Path | None, typer.Option(help="The zip file that the lead sent, once it is there.")] = None,
    fingerprint: Annotated[
        str | None, typer.Option(help="The fingerprint that the lead told you; without it, you are asked.")
    ] = None,
) -> None:
    """Make account, folder, keys, policy and service of this machine, and check them as the service; needs root."""
    from fedhealth.cli.site_service import run_setup

    run_setup(answers, kit, fingerprint)


@app.command()
def check(
    overrides: Annotated[
        list[str] | None, typer.Argument(help="A study to try, or overrides of a planned run: experiment=...")
    ] = None,
    as_json: Json = False,
    home: SiteFolder = None,
) -> None:
    """Check everything that a run needs, and show how to fix it; if a check fails, the exit code is 9."""
    from fedhealth.cli.site_check import run_check

    run_check(overrides or [], home, as_json)


@app.command()
def ingest(
    file: Annotated[
        Path, typer.Argument(help="The settings: docs/ingest.md. With --propose, the folder of the images.")
    ],
    further: Annotated[
        list[str] | None,
        typer.Argument(help="Overrides of data settings: data.max_rejected=0.1. With --propose, the tables."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the cohort; finished work in it is reused.")] = Path("cohort"),
    workers: Annotated[int | None, typer.Option(help="Number of processes; default: one for each processor.")] = None,
    as_json: Json = False,
    propose: Annotated[
        bool, typer.Option("--propose", help="Write ingest.yaml for a person to edit; read only.")
    ] = False,
    data: Annotated[str | None, typer.Option(help="With --propose: the consortium's name for these data.")] = None,
    show_requests: Annotated[
        bool, typer.Option("--show-requests", help="Only show what databases and servers would be asked for tables.")
    ] = False,
    add: Annotated[bool, typer.Option("--add", help="Add the cohort to site.yaml under its data name.")] = False,
    home: SiteFolder = None,
) -> None:
    """Create a cohort from images and tables, with a report of its content and of rejected files."""
    if propose:
        from fedhealth.cli.propose import propose_ingest

        propose_ingest(file, [Path(each) for each in further or []], data, home)
        return
    if show_requests:
        from rich.console import Console

        from fedhealth.cli import ingest as implementation
        from fedhealth.ingest.settings import load_ingest_settings

        implementation.show_requests(load_ingest_settings(file), Console())
        return
    from fedhealth.cli.ingest import run_ingest

    run_ingest(file, out, further or [], workers, as_json)
    if add:
        from fedhealth.cli.propose import add_cohort_to_site

        add_cohort_to_site(file, out, home)


@app.command()
def start(home: SiteFolder = None) -> None:
    """Connect to the lead and take part in its runs until stopped. All connections are outgoing."""
    from fedhealth.cli.site_run import run_start

    run_start(home)


@app.command()
def status(as_json: Json = False, home: SiteFolder = None) -> None:
    """Show the site's status, its current task, the spent privacy budget, and the last error."""
    from fedhealth.cli.site_run import run_status

    run_status(home, as_json)


@app.command()
def metrics(port: Port = None, home: SiteFolder = None) -> None:
    """Print the site's status as Prometheus metrics; with --port, serve them on loopback until stopped."""
    from fedhealth.cli.metrics import run_site_metrics

    run_site_metrics(home, port)


@app.command()
def web(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Serve on this port of 127.0.0.1.")] = 8765,
    read_only: Annotated[
        bool, typer.Option("--read-only", help="Nobody can decide on the page: for auditors.")
    ] = False,
    home: SiteFolder = None,
) -> None:
    """Serve a page on this machine: state, budget, studies to decide on, data, runs and the audit log."""
    from fedhealth.cli.site_web import run_web

    run_web(port, read_only, home)


@app.command()
def passphrase(home: SiteFolder = None) -> None:
    """Set the passphrase with which people decide on the page of `site web`; it is asked for twice."""
    from fedhealth.cli.site_web import run_passphrase

    run_passphrase(home)


@app.command()
def stop(home: SiteFolder = None) -> None:
    """Stop a running site and disconnect from the lead."""
    from fedhealth.cli.site_run import run_stop

    run_stop(home)


@app.command()
def pause(home: SiteFolder = None) -> None:
    """Stop accepting new work; current work is finished."""
    from fedhealth.cli.site_run import run_pause

    run_pause(home, paused=True)


@app.command()
def resume(home: SiteFolder = None) -> None:
    """Accept new work again after `pause`."""
    from fedhealth.cli.site_run import run_pause

    run_pause(home, paused=False)


@app.command()
def recover(
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    home: SiteFolder = None,
) -> None:
    """Put this site in order after its folder was restored from a backup, or its ledger or audit log was damaged."""
    from fedhealth.cli.site_recover import run_recover

    run_recover(home, yes)


@app.command()
def calibrate(
    model: Annotated[Path, typer.Argument(help="An exported model that this hospital helped to train: its folder.")],
    to: Annotated[
        Path | None, typer.Option(help="The .safetensors file to write; default: in the run's folder at this site.")
    ] = None,
    home: SiteFolder = None,
) -> None:
    """Calibrate a model for this hospital from its own scores and the pooled ones; nothing is sent."""
    from fedhealth.cli.site_calibrate import run_calibrate

    run_calibrate(model, to, home)


@app.command("compare")
def compare_site(
    model: Annotated[Path, typer.Argument(help="An exported model that this hospital helped to train: its folder.")],
    as_json: Json = False,
    home: SiteFolder = None,
) -> None:
    """Train a baseline on own data alone, and say which model serves own patients better; nothing is sent."""
    from fedhealth.cli.site_compare import run_compare_site

    run_compare_site(model, as_json, home)


@app.command()
def leave(
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    home: SiteFolder = None,
) -> None:
    """Leave the consortium permanently; ledgers and audit log are kept."""
    from fedhealth.cli.site_run import run_leave

    run_leave(home, yes)


@app.command()
def budget(
    folder: Annotated[
        Path | None, typer.Argument(help="A run directory with several sites, instead of this site's folder.")
    ] = None,
    delta: Annotated[
        float | None,
        typer.Option(help="Compute epsilon at this delta; default: each run's own."),
    ] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Also print each ledger's length and digest.")] = False,
    as_json: Json = False,
    home: SiteFolder = None,
) -> None:
    """Show the privacy budget that each run spent, by data set; if a ledger was modified, the exit code is 6."""
    from fedhealth.cli.site_budget import run_budget
    from fedhealth.site.home import SiteHome

    run_budget(folder or SiteHome.find(home).path, delta, verify, as_json)
