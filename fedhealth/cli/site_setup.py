"""Implementation of `fedhealth site init` and `fedhealth site install`."""

from __future__ import annotations

from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from fedhealth.cli.prompts import name_file, print_lines, read_small_file, require_confirmation
from fedhealth.site.home import SiteHome
from fedhealth.site.init import init_site
from fedhealth.site.install import KitReview, install_kit, load_installed_membership, review_kit


def run_init(name: str, lead: str, folder: Path | None) -> None:
    """Create keys, join request and policy; print the next steps."""
    home, console = SiteHome.find(folder), Console()
    request = init_site(home, name, lead)
    print_lines(console, f"Keys, policy and state of {name}: {home.path}")
    print_lines(console, f"Send this file to the lead: {home.join_request}")
    print_lines(console, f"and tell them this fingerprint by telephone: {request.fingerprint}")
    print_lines(console, f"Its policy, without data so far: {home.policy}")


def run_install(path: Path, fingerprint: str | None, folder: Path | None) -> None:
    """Print the content of a kit, ask for confirmation, and install it."""
    home, content, console = SiteHome.find(folder), read_small_file(path), Console()
    with name_file(path):
        found = review_kit(home, content)
    _print_review(console, found, first=load_installed_membership(home) is None)
    require_confirmation("Did the lead tell you the same consortium fingerprint by telephone?", fingerprint)
    install_kit(home, content, fingerprint)
    print_lines(console, f"Installed. Members: {len(found.membership.members)}. Next: fedhealth site check")


def _print_review(console: Console, found: KitReview, first: bool) -> None:
    membership = found.membership
    table = Table(title="Members", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("Site", overflow="fold")
    table.add_column("Fingerprint", no_wrap=True)
    for member in membership.members:
        table.add_row(member.site, member.fingerprint)
    console.print(table)
    print_lines(console, f"Project {membership.project}, lead {membership.lead}, membership number {membership.serial}")
    nothing = "This is the first kit." if first else "Nothing changes compared with the installed kit."
    print_lines(console, *([f"Change: {change}" for change in found.changes] or [nothing]))
    print_lines(console, f"Consortium fingerprint {found.fingerprint}")
