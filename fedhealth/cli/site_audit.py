"""`fedhealth site audit`: prove afterwards which data left the site, and what was refused."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedhealth.cli.options import SiteFolder

app = typer.Typer(no_args_is_help=True, help="The audit log: what left this site, what was refused, who was trusted.")


@app.callback()
def _root() -> None:
    """Show, verify and export the audit log: which data left this site, what was refused, who was trusted."""


@app.command()
def verify(home: SiteFolder = None) -> None:
    """Verify the log's hash chain; if it was modified, the exit code is 8."""
    from rich.console import Console

    from fedhealth.cli.prompts import print_lines
    from fedhealth.site import audit_log
    from fedhealth.site.home import SiteHome

    path, console = SiteHome.find(home).audit, Console()
    counts = audit_log.count_events(path)
    print_lines(console, f"{path}: {counts.total()} entries, hash chain intact")
    print_lines(console, *(f"  {event}: {number}" for event, number in sorted(counts.items())))
    print_lines(
        console,
        f"Digest {audit_log.get_log_digest(path)}",
        "Keep a copy elsewhere: it can prove later that no earlier entry was changed.",
    )


@app.command()
def show(
    last: Annotated[int, typer.Option(min=1, help="How many entries.")] = 20,
    home: SiteFolder = None,
) -> None:
    """Show the last entries, the newest last."""
    from fedhealth.cli.site_log import run_show

    run_show(last, home)


@app.command()
def export(
    file: Annotated[Path, typer.Argument(help="NAME.json, signed by this site's identity, or NAME.csv.")],
    home: SiteFolder = None,
) -> None:
    """Verify the whole log and write it to a file for auditors."""
    from fedhealth.cli.site_log import run_export

    run_export(file, home)
