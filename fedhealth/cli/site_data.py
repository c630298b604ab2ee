"""The commands `fedhealth site data`: remove patients from a cohort."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Commands for the hospital's cohorts.")


@app.command()
def purge(
    file: Annotated[Path, typer.Argument(help="The settings of the ingest, with `exclude`.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Overrides of data settings.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the cohort.")] = Path("cohort"),
) -> None:
    """Remove excluded patients from a cohort and its caches, and write down what was removed (purge.json)."""
    from rich.console import Console

    from fedhealth.cli.ingest import compose_data_config
    from fedhealth.ingest.purge import PROOF_FILE, purge_excluded
    from fedhealth.ingest.settings import load_ingest_settings
    from fedhealth.utils.user_path import expand_user

    settings, folder = load_ingest_settings(file), expand_user(out).absolute()
    data = compose_data_config(settings, folder, overrides or [])
    workers = len(os.sched_getaffinity(0))
    proof = purge_excluded(settings, data, folder, workers, lambda stage, done, total: None)
    text = f"{proof.files} file(s) and {proof.rows} table row(s) are left out, {len(proof.caches)} cache(s) deleted."
    Console().print(f"{text}\nProof: {folder / PROOF_FILE}", markup=False, highlight=False, soft_wrap=True)
