"""Work behind `fedhealth site init` and `fedhealth site install`."""

from __future__ import annotations

from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from fedhealth.cli.asking import agree, content_of, say
from fedhealth.site.home import SiteHome
from fedhealth.site.init import begin
from fedhealth.site.install import Review, install, installed, review


def run_init(name: str, lead: str, folder: Path | None) -> None:
    """Make keys, request and policy; say what comes next."""
    home, console = SiteHome.find(folder), Console()
    request = begin(home, name, lead)
    say(console, f"Keys, policy and state of {name}: {home.path}")
    say(console, f"Send this file to the lead: {home.request}")
    say(console, f"and tell them this fingerprint by telephone: {request.fingerprint}")
    say(console, f"Then edit {home.policy}")


def run_install(path: Path, fingerprint: str | None, folder: Path | None) -> None:
    """Show what a kit brings, ask, and install it."""
    home, content, console = SiteHome.find(folder), content_of(path), Console()
    found = review(home, content)
    _show(console, found, first=installed(home) is None)
    agree("Did the lead tell you the same consortium fingerprint by telephone?", fingerprint)
    install(home, content, fingerprint)
    say(console, f"Installed. Members: {len(found.membership.members)}. Next: fedhealth site check")


def _show(console: Console, found: Review, first: bool) -> None:
    membership = found.membership
    table = Table(title="Members", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("Site", overflow="fold")
    table.add_column("Fingerprint", no_wrap=True)
    for member in membership.members:
        table.add_row(member.site, member.fingerprint)
    console.print(table)
    say(console, f"Project {membership.project}, lead {membership.lead}, membership number {membership.serial}")
    nothing = "This is the first kit." if first else "Nothing changes against the installed kit."
    say(console, *([f"Change: {change}" for change in found.changes] or [nothing]))
    say(console, f"Consortium fingerprint {found.fingerprint}")
