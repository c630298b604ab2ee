"""The signed list of members as it is now, and a kit of it for every member."""

from __future__ import annotations

import time
from dataclasses import replace

from fedhealth.consortium.certificates import digest_of, load_certificate
from fedhealth.consortium.join_kit import make_kit
from fedhealth.consortium.membership import Membership, SignedMembership, signed
from fedhealth.errors import TrustError
from fedhealth.lead.home import LeadHome
from fedhealth.lead.project import load_project
from fedhealth.utils.atomic_io import write_atomic
from fedhealth.utils.private_files import load_signing_key


def published(home: LeadHome) -> Membership | None:
    """Return the membership that was signed last; None before the first member.

    Raises:
        TrustError: the file is damaged.

    """
    if not home.membership.exists():
        return None
    return SignedMembership.loads(home.membership.read_bytes()).membership


def publish(home: LeadHome) -> Membership | None:
    """Sign the members as they are now, if anything changed, and write every kit; None without members.

    A change counts the serial up. Sites take part in runs once they have installed the kit of the latest serial.

    Raises:
        TrustError: a key, certificate or member's file is damaged.

    """
    last, current = published(home), _present(home)
    if current is None:
        return None
    if last is None or replace(current, serial=last.serial, issued=last.issued) != last:
        current = replace(current, serial=last.serial + 1 if last else 1)
        content = _signed(home, current).dumps()
        SignedMembership.loads(content)  # what would be refused at a site never leaves
        write_atomic(home.membership, content)
    _write_kits(home)
    return published(home)


def _present(home: LeadHome) -> Membership | None:
    """Return what would be signed now, its serial left open."""
    members = home.members()
    if not members:
        return None
    project = load_project(home.project)
    return Membership(
        project=project.project,
        lead=project.lead,
        consortium=load_signing_key(home.consortium_key).public_key().public_bytes_raw(),
        ca=digest_of(load_certificate(home.ca.read_bytes(), str(home.ca))),
        serial=0,
        issued=int(time.time()),
        members=tuple(sorted(members, key=lambda member: member.site)),
    )


def _signed(home: LeadHome, membership: Membership) -> SignedMembership:
    former = load_signing_key(home.former_key) if home.former_key.exists() else None
    return signed(membership, load_signing_key(home.consortium_key), former)


def _write_kits(home: LeadHome) -> None:
    content = SignedMembership.loads(home.membership.read_bytes())
    members = {member.site for member in content.membership.members}
    for site in members:
        write_atomic(home.kits / f"{site}.zip", make_kit(content, home.ca.read_bytes(), site))
    for path in home.kits.glob("*.zip"):
        if path.stem not in members:
            path.unlink()


def require_provisioned(home: LeadHome) -> None:
    """Check that there is a project.

    Raises:
        TrustError: there is none.

    """
    if not home.project.exists():
        raise TrustError(f"There is no project in {home.path}.", "`fedhealth lead provision project.yaml` makes one.")
