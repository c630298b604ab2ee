"""`fedhealth site audit`: prove afterwards which data left the site, and what was refused."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedhealth.cli.options import Json, SiteFolder

app = typer.Typer(no_args_is_help=True, help="The audit log: what left this site, what was refused, who was trusted.")


@app.callback()
def _root() -> None:
    """Show, verify and export the audit log: which data left this site, what was refused, who was trusted."""


@app.command()
def verify(home: SiteFolder = None) -> None:
    """Verify the log's hash chain (exit code 8 if it was modified), and that a booking paid for all that left (6)."""
    from rich.console import Console

    from fedhealth.cli.prompts import print_lines
    from fedhealth.errors import TrustError
    from fedhealth.site import audit_log
    from fedhealth.site.home import SiteHome
    from fedhealth.site.record_gaps import find_log_gap

    place, console = SiteHome.find(home), Console()
    path = place.audit
    if (gap := find_log_gap(place, audit_log.verify_log(path))) is not None:
        raise TrustError(f"{gap[0].upper()}{gap[1:]}.", "Find out who removed it before you start the site again.")
    counts = audit_log.count_events(path)
    print_lines(console, f"{path}: {counts.total()} entries, hash chain intact")
    print_lines(console, *(f"  {event}: {number}" for event, number in sorted(counts.items())))
    print_lines(
        console,
        f"Digest {audit_log.get_log_digest(path)}",
        "Keep a copy elsewhere: it can prove later that no earlier entry was changed.",
    )
    print_lines(console, f"{_count_paid_releases(place.path, path)} private releases left, each paid for by a booking")


def _count_paid_releases(home: Path, log: Path) -> int:
    """Return how many private releases left by the log.

    Raises:
        PrivacyError: no booking in the privacy ledgers paid for one of them, or a ledger is damaged.

    """
    from fedhealth.errors import PrivacyError
    from fedhealth.privacy.accounting.ledger import verify_ledger
    from fedhealth.privacy.accounting.ledger_folder import find_ledgers
    from fedhealth.privacy.auditing.ledger_audit import find_unbooked_digests
    from fedhealth.site.audit_log import verify_log

    left = {str(entry["release"]) for entry in verify_log(log) if entry["event"] == "left" and entry.get("release")}
    entries = [entry for _, path in find_ledgers(home) for entry in verify_ledger(path)]
    if unbooked := find_unbooked_digests(entries, left):
        raise PrivacyError(
            f"{len(unbooked)} of {len(left)} private releases left without a booking, such as {unbooked[0][:16]}.",
            "Stop the site and find out which software sent them.",
        )
    return len(left)


@app.command()
def show(
    last: Annotated[int, typer.Option(min=1, help="How many entries.")] = 20,
    as_json: Json = False,
    home: SiteFolder = None,
) -> None:
    """Show the last entries, the newest last."""
    from fedhealth.cli.site_log import run_show

    run_show(last, home, as_json)


@app.command()
def export(
    file: Annotated[Path, typer.Argument(help="NAME.json, signed by this site's identity, or NAME.csv.")],
    home: SiteFolder = None,
) -> None:
    """Verify the whole log and write it to a file for auditors."""
    from fedhealth.cli.site_log import run_export

    run_export(file, home)
