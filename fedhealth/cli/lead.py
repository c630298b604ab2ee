"""`fedhealth lead`: commands for the staff of the consortium's lead."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedhealth.cli import lead_study
from fedhealth.cli.options import Json, LeadFolder, Port

app = typer.Typer(no_args_is_help=True, help="Commands for the staff of the consortium's lead.")
app.add_typer(lead_study.app, name="study")


@app.callback()
def _root() -> None:
    """Commands for the staff of the consortium's lead."""


@app.command()
def provision(
    project: Annotated[Path, typer.Argument(help="project.yaml: the consortium's name, address and certificate.")],
    home: LeadFolder = None,
) -> None:
    """Create the consortium's keys, certificates and secrets; existing ones are kept."""
    from fedhealth.cli.lead_members import run_provision

    run_provision(project, home)


@app.command()
def admit(
    request: Annotated[Path, typer.Argument(help="join-request.json, as the hospital sent it.")],
    fingerprint: Annotated[
        str | None, typer.Option(help="The fingerprint that the hospital told you; without it, you are asked.")
    ] = None,
    home: LeadFolder = None,
) -> None:
    """Admit a hospital after comparing its fingerprint, and write the join kits."""
    from fedhealth.cli.lead_members import run_admit

    run_admit(request, fingerprint, home)


@app.command()
def members(as_json: Json = False, home: LeadFolder = None) -> None:
    """Show the members, their fingerprints, and the validity of the certificates."""
    from fedhealth.cli.lead_members import run_members

    run_members(home, as_json)


@app.command()
def revoke(
    site: Annotated[str, typer.Argument(help="The member's name.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    home: LeadFolder = None,
) -> None:
    """Revoke a hospital's membership permanently; its keys are never admitted again."""
    from fedhealth.cli.lead_members import run_revoke

    run_revoke(site, yes, home)


@app.command()
def renew(
    ca: Annotated[
        bool, typer.Option("--ca", help="Also replace the certificate authority; all hospitals need new kits.")
    ] = False,
    home: LeadFolder = None,
) -> None:
    """Renew the server's certificate; the hospitals need nothing new."""
    from fedhealth.cli.lead_members import run_renew

    run_renew(ca, home)


@app.command()
def rotate(home: LeadFolder = None) -> None:
    """Rotate the consortium's signing key; the old key signs the new one, and every hospital needs its new kit."""
    from fedhealth.cli.lead_members import run_rotate

    run_rotate(home)


@app.command()
def serve(home: LeadFolder = None) -> None:
    """Run the server for the hospitals until stopped; it serves the lead's own commands on loopback."""
    from fedhealth.cli.lead_serve import run_serve

    run_serve(home)


@app.command()
def sites(as_json: Json = False, home: LeadFolder = None) -> None:
    """Show each hospital's connection, release, kit, last check, and what keeps it from taking part."""
    from fedhealth.cli.lead_serve import run_sites

    run_sites(home, as_json)


@app.command()
def runs(as_json: Json = False, home: LeadFolder = None) -> None:
    """List the runs that were started here."""
    from fedhealth.cli.lead_serve import run_runs

    run_runs(home, as_json)


@app.command()
def metrics(port: Port = None, home: LeadFolder = None) -> None:
    """Print the status of the runs as Prometheus metrics; with --port, serve them on loopback until stopped."""
    from fedhealth.cli.metrics import run_lead_metrics

    run_lead_metrics(home, port)


@app.command()
def web(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Serve on this port of 127.0.0.1.")] = 8766,
    home: LeadFolder = None,
) -> None:
    """Serve a page on this machine, for reading: members, studies and their answers, runs and budgets."""
    from fedhealth.cli.lead_web import run_lead_web

    run_lead_web(port, home)


@app.command()
def stop(
    run: Annotated[str, typer.Argument(help="The run's id, or the first characters of it.")], home: LeadFolder = None
) -> None:
    """Stop a run; `fedhealth run resume=FOLDER` resumes it."""
    from fedhealth.cli.lead_serve import run_stop

    run_stop(run, home)


@app.command()
def logs(
    run: Annotated[str, typer.Argument(help="The run's id, or the first characters of it.")], home: LeadFolder = None
) -> None:
    """Print a run's log."""
    from fedhealth.cli.lead_serve import run_logs

    run_logs(run, home)
