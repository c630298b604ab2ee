"""The commands `fedhealth lead study`: write, publish, follow and close a study."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedhealth.cli.options import Json, LeadFolder

app = typer.Typer(no_args_is_help=True, help="Studies: what hospitals are asked to approve before a run.")
Name = Annotated[str, typer.Argument(help="The study's name.")]


@app.command()
def new(
    name: Name,
    overrides: Annotated[list[str], typer.Argument(help="Overrides of the run, as for `fedhealth run`.")],
    to: Annotated[Path, typer.Option(help="The file to write.")] = Path("study.yaml"),
) -> None:
    """Write a study.yaml for a run, to be completed by hand."""
    from fedhealth.cli.lead_study_steps import run_new

    run_new(name, overrides, to)


@app.command()
def publish(
    draft: Annotated[Path, typer.Argument(help="study.yaml, completed.")] = Path("study.yaml"),
    config_dir: Annotated[Path | None, typer.Option(help="A further folder of configuration files.")] = None,
    home: LeadFolder = None,
) -> None:
    """Sign a study, or the next version of it, and show what it changes; send the file to the hospitals."""
    from fedhealth.cli.lead_study_steps import run_publish

    run_publish(draft, config_dir, home)


@app.command("status")
def list_answers(
    name: Annotated[str | None, typer.Argument(help="The study's name; without it, all studies.")] = None,
    as_json: Json = False,
    home: LeadFolder = None,
) -> None:
    """Show each study, its runs, and which hospitals answered or declined them."""
    from fedhealth.cli.lead_study_steps import run_list_answers

    run_list_answers(name, home, as_json)


@app.command()
def close(name: Name, home: LeadFolder = None) -> None:
    """Close a study with a last version; hospitals that receive it answer no further run of it."""
    from fedhealth.cli.lead_study_steps import run_close

    run_close(name, home)
