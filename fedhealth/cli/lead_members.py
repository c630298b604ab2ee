"""Implementation of `fedhealth lead`: keys, members, join kits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from fedhealth.cli.json_output import print_json
from fedhealth.cli.prompts import name_file, print_lines, read_small_file, require_confirmation
from fedhealth.consortium.certificates import compute_days_left, decode_certificate
from fedhealth.consortium.membership import Membership
from fedhealth.consortium.signatures import check_fingerprint
from fedhealth.lead.admit import admit_member, review_join_request, revoke_member
from fedhealth.lead.home import LeadHome
from fedhealth.lead.project import load_project
from fedhealth.lead.provision import provision_consortium, renew_certificate, rotate_consortium_key
from fedhealth.lead.publish_membership import load_published_membership, require_provisioned

_OTHERS = "The other members install their new kits before the next run; nothing else changes for them."


def run_provision(project: Path, folder: Path | None) -> None:
    """Create what is missing and print the consortium's fingerprint."""
    home, wanted, console = LeadHome.find(folder), load_project(project), Console()
    fingerprint = provision_consortium(home, wanted)
    print_lines(console, f"Project {wanted.project}: {home.path}", f"Consortium key {fingerprint}")
    print_lines(console, f"The hospitals connect to {wanted.lead}; the server's certificate is for:")
    print_lines(console, *(f"  {name}" for name in wanted.certificate_names))
    print_lines(console, f"Each hospital: fedhealth site init --name NAME --lead {wanted.lead}")


def run_admit(path: Path, fingerprint: str | None, folder: Path | None) -> None:
    """Print the fingerprint of a join request, ask for confirmation, admit the hospital, and print where its kit is."""
    home, content, console = LeadHome.find(folder), read_small_file(path), Console()
    with name_file(path):
        member = review_join_request(home, content)
    check_fingerprint(member.fingerprint, fingerprint, "request")
    print_lines(console, f"{member.site} asks to join, fingerprint {member.fingerprint}")
    require_confirmation("Did the hospital tell you the same fingerprint by telephone?", fingerprint)
    admit_member(home, content, fingerprint)
    membership = load_published_membership(home)
    assert membership is not None  # noqa: S101 - one was admitted
    print_lines(console, f"{member.site} is a member. Send it {home.kits / f'{member.site}.zip'}")
    _print_membership(console, membership)
    if len(membership.members) > 1:
        print_lines(console, f"New kits of the other members are in {home.kits}. {_OTHERS}")


def run_members(folder: Path | None, as_json: bool) -> None:
    """Print the members and the validity of the certificates."""
    home, console = LeadHome.find(folder), Console()
    require_provisioned(home)
    membership = load_published_membership(home)
    server, authority = (
        compute_days_left(decode_certificate(path.read_bytes(), str(path))) for path in (home.certificate, home.ca)
    )
    if as_json:
        certificates = {"certificate_days_left": server, "authority_days_left": authority}
        print_json({**_collect_membership(membership), **certificates})
        return
    if membership is None:
        print_lines(console, "There are no members yet.")
    else:
        console.print(_build_member_table(membership))
        _print_membership(console, membership)
    print_lines(console, f"The server's certificate is valid for {server:.0f} more days.")
    print_lines(console, f"The authority is valid for {authority:.0f} more days.")


def _collect_membership(membership: Membership | None) -> dict[str, Any]:
    if membership is None:
        return {"members": []}
    members = [{"site": member.site, "fingerprint": member.fingerprint} for member in membership.members]
    told = {"project": membership.project, "number": membership.serial, "fingerprint": membership.fingerprint}
    return {**told, "members": members}


def _build_member_table(membership: Membership) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("Member", overflow="fold")
    table.add_column("Fingerprint", no_wrap=True)
    for member in membership.members:
        table.add_row(member.site, member.fingerprint)
    return table


def run_revoke(site: str, yes: bool, folder: Path | None) -> None:
    """Revoke a membership and print what the other members must do."""
    home, console = LeadHome.find(folder), Console()
    if not yes:
        require_confirmation(f"Revoke the membership of {site} permanently?")
    membership = revoke_member(home, site)
    print_lines(console, f"{site} is no longer a member. New kits of the other members are in {home.kits}. {_OTHERS}")
    _print_membership(console, membership)


def run_renew(ca: bool, folder: Path | None) -> None:
    """Renew the certificate and print what the hospitals must do."""
    home, console = LeadHome.find(folder), Console()
    until = renew_certificate(home, ca=ca)
    print_lines(console, f"The server's certificate is valid until {until:%Y-%m-%d}. Restart the server.")
    if ca:
        print_lines(
            console,
            f"The certificate authority is new: every hospital needs its kit from {home.kits} to connect.",
        )


def run_rotate(folder: Path | None) -> None:
    """Rotate the consortium's key and print what the hospitals must do."""
    home, console = LeadHome.find(folder), Console()
    membership = rotate_consortium_key(home)
    print_lines(console, "The consortium has a new key, signed by the old one.")
    if membership:
        _print_membership(console, membership)
        print_lines(console, f"Every hospital must install its kit from {home.kits} before the next run.")


def _print_membership(console: Console, membership: Membership) -> None:
    print_lines(
        console, f"Membership number {membership.serial} of {membership.project}: {len(membership.members)} member(s)"
    )
    print_lines(console, f"Consortium fingerprint {membership.fingerprint}")
