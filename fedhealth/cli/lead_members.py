"""Work behind `fedhealth lead`: keys, members, kits."""

from __future__ import annotations

from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from fedhealth.cli.asking import agree, content_of, say
from fedhealth.consortium.certificates import days_left, load_certificate
from fedhealth.consortium.membership import Membership
from fedhealth.consortium.signatures import check_fingerprint
from fedhealth.lead.admit import admit, examine, revoke
from fedhealth.lead.home import LeadHome
from fedhealth.lead.project import load_project
from fedhealth.lead.provision import provision, renew, rotate
from fedhealth.lead.publish_membership import published, require_provisioned

_OTHERS = "The others install theirs before the next run; nothing else changes for them."


def run_provision(project: Path, folder: Path | None) -> None:
    """Make what is missing and show the consortium's fingerprint."""
    home, wanted, console = LeadHome.find(folder), load_project(project), Console()
    fingerprint = provision(home, wanted)
    say(console, f"Project {wanted.project}: {home.path}", f"Consortium key {fingerprint}")
    say(console, f"The hospitals connect to {wanted.lead}; the server's certificate is for:")
    say(console, *(f"  {name}" for name in wanted.certificate_names))
    say(console, f"Each hospital: fedhealth site init --name NAME --lead {wanted.lead}")


def run_admit(path: Path, fingerprint: str | None, folder: Path | None) -> None:
    """Show a request's fingerprint, ask, admit, and say where the kits are."""
    home, content, console = LeadHome.find(folder), content_of(path), Console()
    member = examine(home, content)
    check_fingerprint(member.fingerprint, fingerprint, "request")
    say(console, f"{member.site} asks to join, fingerprint {member.fingerprint}")
    agree("Did the hospital tell you the same fingerprint by telephone?", fingerprint)
    admit(home, content, fingerprint)
    membership = published(home)
    assert membership is not None  # noqa: S101 - one was admitted
    say(console, f"{member.site} is a member. Send it {home.kits / f'{member.site}.zip'}")
    _say_membership(console, membership)
    if len(membership.members) > 1:
        say(console, f"The other members have new kits too, in {home.kits}. {_OTHERS}")


def run_members(folder: Path | None) -> None:
    """Show the members and the certificates' validity."""
    home, console = LeadHome.find(folder), Console()
    require_provisioned(home)
    membership = published(home)
    if membership is None:
        say(console, "There are no members yet.")
    else:
        table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
        table.add_column("Member", overflow="fold")
        table.add_column("Fingerprint", no_wrap=True)
        for member in membership.members:
            table.add_row(member.site, member.fingerprint)
        console.print(table)
        _say_membership(console, membership)
    for what, path in (("server's certificate", home.certificate), ("authority", home.ca)):
        left = days_left(load_certificate(path.read_bytes(), str(path)))
        say(console, f"The {what} is valid for {left:.0f} more days.")


def run_revoke(site: str, yes: bool, folder: Path | None) -> None:
    """Take a member out and say what the others do."""
    home, console = LeadHome.find(folder), Console()
    if not yes:
        agree(f"Take {site} out for good?")
    membership = revoke(home, site)
    say(console, f"{site} is no longer a member. New kits of the others are in {home.kits}. {_OTHERS}")
    _say_membership(console, membership)


def run_renew(ca: bool, folder: Path | None) -> None:
    """Replace the certificate and say who needs what."""
    home, console = LeadHome.find(folder), Console()
    until = renew(home, ca=ca)
    say(console, f"The server's certificate is valid until {until:%Y-%m-%d}. Start the server again.")
    if ca:
        say(console, f"The authority is new: every hospital installs its kit from {home.kits} before it can connect.")


def run_rotate(folder: Path | None) -> None:
    """Replace the consortium's key and say who needs what."""
    home, console = LeadHome.find(folder), Console()
    membership = rotate(home)
    say(console, "The consortium has a new key; the former one endorses it.")
    if membership:
        _say_membership(console, membership)
        say(console, f"Every hospital installs its kit from {home.kits} before the next run.")


def _say_membership(console: Console, membership: Membership) -> None:
    say(console, f"Membership number {membership.serial} of {membership.project}: {len(membership.members)} member(s)")
    say(console, f"Consortium fingerprint {membership.fingerprint}")
