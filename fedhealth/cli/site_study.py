"""The commands `fedhealth site study`: show, approve, decline and withdraw a study."""

from __future__ import annotations

from typing import Annotated

import typer

from fedhealth.cli.options import SiteFolder
from fedhealth.protocol.study_answer import RefusalReason

app = typer.Typer(no_args_is_help=True, help="Decide on the studies that the lead publishes.")
Study = Annotated[str, typer.Argument(help="The study's name or digest, or the file that the lead sent.")]
Reason = Annotated[RefusalReason, typer.Option(help="The lead reads it in the site's next report.")]
Note = Annotated[str, typer.Option(help="Kept here; it is never sent.")]
Person = Annotated[str | None, typer.Option("--by", help="Who decides; default: the user of this terminal.")]


@app.command()
def show(
    study: Annotated[str | None, typer.Argument(help="Name, digest or file; without it, all studies.")] = None,
    settings: Annotated[bool, typer.Option("--settings", help="Also print every setting of the runs.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the list of all studies as JSON.")] = False,
    home: SiteFolder = None,
) -> None:
    """Show a study, what it changes, and what this hospital decided; or list all studies."""
    from fedhealth.cli.site_study_decision import run_list, run_show

    run_list(home, as_json) if study is None else run_show(study, settings, home)


@app.command()
def approve(
    study: Study,
    yes: Annotated[
        str | None,
        typer.Option("--yes", metavar="DIGEST", help="Do not ask: the study has this digest, or one that begins so."),
    ] = None,
    by: Person = None,
    home: SiteFolder = None,
) -> None:
    """Evaluate a study on the hospital's own data, show what was found, and approve it; no finding is sent."""
    from fedhealth.cli.site_study_decision import run_approve

    run_approve(study, yes, by, home)


@app.command()
def decline(
    study: Study,
    reason: Reason,
    note: Note = "",
    by: Person = None,
    home: SiteFolder = None,
) -> None:
    """Decline a study: none of its runs is answered; an approved earlier version stays approved."""
    from fedhealth.cli.site_study_decision import run_decline

    run_decline(study, reason, note, by, home)


@app.command()
def withdraw(
    study: Study,
    reason: Reason,
    note: Note = "",
    by: Person = None,
    home: SiteFolder = None,
) -> None:
    """Withdraw an approval: from now on no request of the study is answered; unspent budget is given back."""
    from fedhealth.cli.site_study_decision import run_withdraw

    run_withdraw(study, reason, note, by, home)
