"""The commands `fedhealth site runs`: the hospital's record of every run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedhealth.cli.options import Json, SiteFolder

app = typer.Typer(no_args_is_help=True, help="The record of every run at this hospital.")


@app.callback()
def _root() -> None:
    """Show what was run here: for whom, on which data, what was booked, what left, who approved, the outcome."""


@app.command("list")
def list_runs(json: Json = False, home: SiteFolder = None) -> None:
    """List all runs, the oldest first."""
    from fedhealth.cli.site_runs_output import run_list

    run_list(json, home)


@app.command("show")
def show_run(
    run: Annotated[str, typer.Argument(help="The run's id, or its first letters.")],
    json: Json = False,
    to: Annotated[Path | None, typer.Option(help="Write a page for printing to this .html file.")] = None,
    home: SiteFolder = None,
) -> None:
    """Show one run's record."""
    from fedhealth.cli.site_runs_output import run_show_record

    run_show_record(run, json, to, home)


@app.command()
def export(
    file: Annotated[Path, typer.Argument(help="NAME.csv, or NAME.json signed by this site's identity.")],
    home: SiteFolder = None,
) -> None:
    """Write all runs as entries for the hospital's register of processing activities (GDPR Art. 30)."""
    from fedhealth.cli.site_runs_output import run_export

    run_export(file, home)
