"""The commands `fedhealth site data`: remove patients from a cohort, list and delete caches."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from fedhealth.cli.options import Json, SiteFolder

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


@app.command()
def cache(
    purge: Annotated[bool, typer.Option("--purge", help="Delete all of it; it is made again when needed.")] = False,
    as_json: Json = False,
    home: SiteFolder = None,
) -> None:
    """List what this site has cached: decoded images, tokens, and features of frozen encoders."""
    from rich.console import Console

    from fedhealth.cli.json_output import print_json
    from fedhealth.cli.prompts import print_lines
    from fedhealth.site.data_cache import list_cached_datasets, purge_cached_datasets
    from fedhealth.site.home import SiteHome
    from fedhealth.site.policy import load_policy

    place = SiteHome.find(home)
    found = list_cached_datasets(load_policy(place))
    size = sum(each.megabytes for each in found)
    if purge:
        purge_cached_datasets(place, found)
        print_lines(Console(), f"{len(found)} caches deleted, {size:.0f} MB.")
    elif as_json:
        print_json(found)
    else:
        lines = [f"{each.folder}: {each.megabytes:.0f} MB, {', '.join(each.parts)}" for each in found]
        print_lines(Console(), *lines, f"{len(found)} caches, {size:.0f} MB. --purge deletes them.")
