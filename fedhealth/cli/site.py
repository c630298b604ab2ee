"""`fedhealth site`: commands for the staff of one hospital."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from fedhealth.cli import site_audit, site_data, site_runs, site_study
from fedhealth.cli.options import Json, Port, SiteFolder
from fedhealth.errors import ConfigError, PrivacyError
from fedhealth.utils.privacy_text import (
    format_delta,
    format_guarantee,
    format_local_epsilon,
    format_noise_multiplier,
    format_unit,
)

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
        Path | None, typer.Argument(help="A run directory with several sites; default: this site's folder.")
    ] = None,
    delta: Annotated[
        float | None,
        typer.Option(help="Compute epsilon at this delta; default: each run's own."),
    ] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Also print each ledger's length and digest.")] = False,
) -> None:
    """Show the privacy budget that each run spent, by data set; if a ledger was modified, the exit code is 6."""
    from fedhealth.cli.site_run import load_lifetime_delta
    from fedhealth.privacy.accounting.ledger_folder import find_ledgers
    from fedhealth.site.home import SiteHome

    folder = folder or SiteHome.find(None).path
    if not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder.", "Give a site's folder or a run directory.")
    if delta is not None and not 0 < delta < 1:
        raise ConfigError(f"--delta {delta} is not between 0 and 1.", "Use 1e-6, or less for many patients.")
    found = find_ledgers(folder)
    if not found:
        raise PrivacyError(f"There is no privacy ledger in {folder}.", "The first private run creates it.")
    console, total_delta = Console(), delta or load_lifetime_delta(SiteHome(folder))
    console.print(_build_spending_table(folder, delta))
    for site, path in found:
        _print_total(console, site, path, total_delta)
        if verify:
            _print_chain(console, site, path)


def _build_spending_table(folder: Path, delta: float | None) -> Table:
    from fedhealth.privacy.accounting.spending import iter_run_spending

    table = Table(title="Privacy spent", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for name in ("Hospital/data set", "Run", "Unit"):
        table.add_column(name, overflow="fold")
    for name in ("Epsilon", "Delta", "Noise multiplier", "Booked", "Failed", "Retried", "Declined"):
        table.add_column(name, justify="right", min_width=max(map(len, name.split())))
    for each in iter_run_spending(folder, delta):
        epsilon = f"{each.epsilon:.3f}" + ("" if each.target is None else f" of {each.target:g}")
        epsilon += f" (local {each.local_epsilon:.3f})" if each.shares > 1 else ""
        numbers = (
            epsilon,
            format_delta(each.delta),
            format_noise_multiplier(each.noise_multiplier),
            *map(str, (each.booked_count, each.failed_count, each.retried_count, each.declined_count)),
        )
        table.add_row(f"{each.site}/{each.dataset}", each.run, format_unit(each.unit), *numbers)
    return table


def _print_total(console: Console, site: str, path: Path, delta: float | None) -> None:
    from fedhealth.privacy.accounting.spending import compute_dataset_spending, compute_reserved_epsilon

    total = compute_dataset_spending(site, path, delta)
    spent = format_guarantee(total.epsilon, total.delta, total.noise_multiplier, total.unit, digits=4)
    said = f"{site}, {path.stem}: all runs together spent {spent} or more"
    if total.local_epsilon is not None:
        said += f"; {format_local_epsilon(total.local_epsilon, total.delta)}"
    with_kept, until = compute_reserved_epsilon(path, total.delta)
    if until:
        lapses = datetime.fromtimestamp(until).astimezone().strftime("%Y-%m-%d %H:%M")
        said += f"; {with_kept:.4g} at the same delta including reservations of sweeps until {lapses}"
    console.print(said, markup=False, highlight=False, soft_wrap=True)


def _print_chain(console: Console, site: str, path: Path) -> None:
    from fedhealth.privacy.accounting.ledger import read_ledger_digest, verify_ledger

    entries = verify_ledger(path)
    said = f"{site}, {path.stem}: {len(entries)} entries, hash chain intact, digest {read_ledger_digest(path)}"
    console.print(said, markup=False, highlight=False, soft_wrap=True)
