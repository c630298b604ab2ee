"""`fedhealth lead`: what the people of the consortium's lead do."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedhealth.cli.options import LeadFolder, Port

app = typer.Typer(no_args_is_help=True, help="For the people of the consortium's lead.")


@app.callback()
def _root() -> None:
    """For the people of the consortium's lead."""


@app.command()
def provision(
    project: Annotated[Path, typer.Argument(help="project.yaml: the consortium's name, address and certificate.")],
    home: LeadFolder = None,
) -> None:
    """Make the consortium's keys, certificates and secrets; what is there is kept."""
    from fedhealth.cli.lead_members import run_provision

    run_provision(project, home)


@app.command()
def admit(
    request: Annotated[Path, typer.Argument(help="join-request.json, as the hospital sent it.")],
    fingerprint: Annotated[str | None, typer.Option(help="As the hospital told it; asked for otherwise.")] = None,
    home: LeadFolder = None,
) -> None:
    """Make a hospital a member after its fingerprint was compared, and write the kits."""
    from fedhealth.cli.lead_members import run_admit

    run_admit(request, fingerprint, home)


@app.command()
def members(home: LeadFolder = None) -> None:
    """Show the members, their fingerprints, and how long the certificates are valid."""
    from fedhealth.cli.lead_members import run_members

    run_members(home)


@app.command()
def revoke(
    site: Annotated[str, typer.Argument(help="The member's name.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    home: LeadFolder = None,
) -> None:
    """Take a hospital out for good; its keys are never admitted again."""
    from fedhealth.cli.lead_members import run_revoke

    run_revoke(site, yes, home)


@app.command()
def renew(
    ca: Annotated[bool, typer.Option("--ca", help="A new authority too; every hospital needs its new kit.")] = False,
    home: LeadFolder = None,
) -> None:
    """Replace the server's certificate; the hospitals need nothing new."""
    from fedhealth.cli.lead_members import run_renew

    run_renew(ca, home)


@app.command()
def rotate(home: LeadFolder = None) -> None:
    """Replace the consortium's signing key; the former one endorses it, every hospital needs its new kit."""
    from fedhealth.cli.lead_members import run_rotate

    run_rotate(home)


@app.command()
def serve(home: LeadFolder = None) -> None:
    """Serve the hospitals until stopped; on loopback the lead's own commands."""
    from fedhealth.cli.lead_serve import run_serve

    run_serve(home)


@app.command()
def sites(home: LeadFolder = None) -> None:
    """Show which hospitals are connected."""
    from fedhealth.cli.lead_serve import run_sites

    run_sites(home)


@app.command()
def runs(home: LeadFolder = None) -> None:
    """Show the runs that were started here."""
    from fedhealth.cli.lead_serve import run_runs

    run_runs(home)


@app.command()
def metrics(port: Port = None, home: LeadFolder = None) -> None:
    """Print how the runs stand, in numbers for Prometheus; with --port serve them on loopback until stopped."""
    from fedhealth.cli.metrics import run_lead_metrics

    run_lead_metrics(home, port)


@app.command()
def stop(run: Annotated[str, typer.Argument(help="The run's id, or its beginning.")], home: LeadFolder = None) -> None:
    """Stop a run; `fedhealth run resume=FOLDER` goes on with it."""
    from fedhealth.cli.lead_serve import run_stop

    run_stop(run, home)


@app.command()
def logs(run: Annotated[str, typer.Argument(help="The run's id, or its beginning.")], home: LeadFolder = None) -> None:
    """Print a run's log."""
    from fedhealth.cli.lead_serve import run_logs

    run_logs(run, home)
