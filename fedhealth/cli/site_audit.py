"""`fedhealth site audit`: prove afterwards what left the building, and what was refused."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedhealth.cli.options import SiteFolder

app = typer.Typer(no_args_is_help=True, help="What left this site, what was refused, who was believed.")


@app.callback()
def _root() -> None:
    """Show, verify and export what left this site, what was refused, who was believed."""


@app.command()
def verify(home: SiteFolder = None) -> None:
    """Check the log's chain of hashes; one that was touched ends with exit code 8."""
    from rich.console import Console

    from fedhealth.cli.asking import say
    from fedhealth.site import audit_log
    from fedhealth.site.home import SiteHome

    path, console = SiteHome.find(home).audit, Console()
    counts = audit_log.counts(path)
    say(console, f"{path}: {counts.total()} entries, chain whole")
    say(console, *(f"  {event}: {number}" for event, number in sorted(counts.items())))
    say(
        console,
        f"Digest {audit_log.digest_of(path)}",
        "Written down in another place, it shows later that nothing before it was changed.",
    )


@app.command()
def show(
    last: Annotated[int, typer.Option(min=1, help="How many entries.")] = 20,
    home: SiteFolder = None,
) -> None:
    """Show the last entries, the newest at the end."""
    from fedhealth.cli.site_log import run_show

    run_show(last, home)


@app.command()
def export(
    file: Annotated[Path, typer.Argument(help="NAME.json, signed by this site's identity, or NAME.csv.")],
    home: SiteFolder = None,
) -> None:
    """Write the whole log, verified, to a file for auditors."""
    from fedhealth.cli.site_log import run_export

    run_export(file, home)
