"""`fedhealth site`: what a hospital's own people look at."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from fedhealth.cli import site_audit
from fedhealth.cli.options import Json, Port, SiteFolder
from fedhealth.errors import ConfigError, PrivacyError

app = typer.Typer(no_args_is_help=True, help="For the people of one hospital.")
app.add_typer(site_audit.app, name="audit")


@app.callback()
def _root() -> None:
    """For the people of one hospital."""


@app.command()
def init(
    name: Annotated[str, typer.Option(help="The hospital's name in the consortium: lower case, digits, . _ and -.")],
    lead: Annotated[str, typer.Option(help="host:port of the lead's server.")],
    home: SiteFolder = None,
) -> None:
    """Make the hospital's keys, its join request and a strict site.yaml; what is there is kept."""
    from fedhealth.cli.site_setup import run_init

    run_init(name, lead, home)


@app.command()
def install(
    kit: Annotated[Path, typer.Argument(help="The zip file that the lead sent.")],
    fingerprint: Annotated[str | None, typer.Option(help="As the lead told it; asked for otherwise.")] = None,
    home: SiteFolder = None,
) -> None:
    """Check the lead's kit, show whom it brings, and trust it once the fingerprint was compared."""
    from fedhealth.cli.site_setup import run_install

    run_install(kit, fingerprint, home)


@app.command()
def check(
    words: Annotated[list[str] | None, typer.Argument(help="A run to try, in the lead's words: experiment=...")] = None,
    as_json: Json = False,
    home: SiteFolder = None,
) -> None:
    """Check everything that a run needs, and say how to fix it; a check that fails ends with exit code 9."""
    from fedhealth.cli.site_check import run_check

    run_check(words or [], home, as_json)


@app.command()
def ingest(
    file: Annotated[Path, typer.Argument(help="What there is, and how it belongs together: docs/ingest.md.")],
    words: Annotated[list[str] | None, typer.Argument(help="Settings of the data: data.max_rejected=0.1")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the cohort; what is done there is kept.")] = Path("cohort"),
    workers: Annotated[int | None, typer.Option(help="Processes; default: one for each processor.")] = None,
    as_json: Json = False,
) -> None:
    """Make a cohort of DICOM files and tables, with a report of what is there and what was set aside."""
    from fedhealth.cli.ingest import run_ingest

    run_ingest(file, out, words or [], workers, as_json)


@app.command()
def start(home: SiteFolder = None) -> None:
    """Take part: connect to the lead and work on its runs until stopped. Connects outwards only."""
    from fedhealth.cli.site_run import run_start

    run_start(home)


@app.command()
def status(as_json: Json = False, home: SiteFolder = None) -> None:
    """Show how the site stands, what it works on, what is spent, and the last error."""
    from fedhealth.cli.site_run import run_status

    run_status(home, as_json)


@app.command()
def metrics(port: Port = None, home: SiteFolder = None) -> None:
    """Print how the site stands, in numbers for Prometheus; with --port serve them on loopback until stopped."""
    from fedhealth.cli.metrics import run_site_metrics

    run_site_metrics(home, port)


@app.command()
def stop(home: SiteFolder = None) -> None:
    """End a running site and sign off at the lead."""
    from fedhealth.cli.site_run import run_stop

    run_stop(home)


@app.command()
def pause(home: SiteFolder = None) -> None:
    """Take no new work; what is being worked on is finished."""
    from fedhealth.cli.site_run import run_pause

    run_pause(home, paused=True)


@app.command()
def resume(home: SiteFolder = None) -> None:
    """Take work again after `pause`."""
    from fedhealth.cli.site_run import run_pause

    run_pause(home, paused=False)


@app.command()
def leave(
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    home: SiteFolder = None,
) -> None:
    """Leave the consortium for good; ledgers and audit log are kept."""
    from fedhealth.cli.site_run import run_leave

    run_leave(home, yes)


@app.command()
def budget(
    folder: Annotated[
        Path | None, typer.Argument(help="A run directory with several sites; default: this site's home.")
    ] = None,
    delta: Annotated[float | None, typer.Option(help="Measure epsilon at this delta; default: each run's own.")] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Also print each ledger's length and digest.")] = False,
) -> None:
    """Show what every run spent on which data set; a ledger that was tampered with ends with exit code 6."""
    from fedhealth.privacy.accounting.spending import ledgers
    from fedhealth.site.home import SiteHome

    folder = folder or SiteHome.find(None).path
    if not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder.", "Give a site's folder or a run directory.")
    if delta is not None and not 0 < delta < 1:
        raise ConfigError(f"--delta {delta} is not between 0 and 1.", "Use about 1 / (10 x number of patients).")
    found = ledgers(folder)
    if not found:
        raise PrivacyError(f"There is no privacy ledger in {folder}.", "It begins with the first private run.")
    console = Console()
    console.print(_table(folder, delta))
    for site, path in found:
        _total(console, site, path, delta)
        if verify:
            _chain(console, site, path)


def _table(folder: Path, delta: float | None) -> Table:
    from fedhealth.privacy.accounting.spending import spending

    table = Table(title="Privacy spent", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for name in ("Hospital/data set", "Run", "Unit"):
        table.add_column(name, overflow="fold")
    for name in ("Epsilon", "Delta", "Sigma", "Booked", "Declined"):
        table.add_column(name, justify="right", no_wrap=True)
    for each in spending(folder, delta):
        epsilon = f"{each.epsilon:.3f}" + ("" if each.target is None else f" of {each.target:g}")
        numbers = (epsilon, f"{each.delta:.2g}", f"{each.sigma:.3g}", str(each.booked), str(each.declined))
        table.add_row(f"{each.site}/{each.dataset}", each.run, each.unit, *numbers)
    return table


def _total(console: Console, site: str, path: Path, delta: float | None) -> None:
    from fedhealth.privacy.accounting.spending import in_all, reserved

    total, at = in_all(path, delta)
    said = f"{site}, {path.stem}: epsilon {total:.3f} in all at delta {at:.2g}"
    with_kept, until = reserved(path, at)
    if until:
        lapses = datetime.fromtimestamp(until).astimezone().strftime("%Y-%m-%d %H:%M")
        said += f"; {with_kept:.3f} with what sweeps have reserved until {lapses}"
    console.print(said, markup=False, highlight=False, soft_wrap=True)


def _chain(console: Console, site: str, path: Path) -> None:
    from fedhealth.privacy.accounting.ledger import digest_of, verify

    entries = verify(path)
    said = f"{site}, {path.stem}: {len(entries)} entries, chain whole, digest {digest_of(path)}"
    console.print(said, markup=False, highlight=False, soft_wrap=True)
