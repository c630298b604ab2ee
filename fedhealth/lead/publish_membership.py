"""Sign the current list of members, and write a kit for every member."""

from __future__ import annotations

import time
from dataclasses import replace

from fedhealth.consortium.certificates import decode_certificate, fingerprint_certificate
from fedhealth.consortium.join_kit import make_kit
from fedhealth.consortium.membership import Membership, SignedMembership, sign_membership
from fedhealth.errors import TrustError
from fedhealth.lead.home import LeadHome
from fedhealth.lead.project import load_project
from fedhealth.utils.atomic_io import write_atomic
from fedhealth.utils.private_files import load_signing_key


def load_published_membership(home: LeadHome) -> Membership | None:
    """Return the latest signed membership; None before the first member.

    Raises:
        TrustError: the file is damaged.

    """
    if not home.membership.exists():
        return None
    return SignedMembership.loads(home.membership.read_bytes()).membership


def publish_membership(home: LeadHome) -> Membership | None:
    """Sign the current members if anything changed, and write every kit; return None if there are no members.

    A change increments the serial number. A site can take part in runs once it has installed the latest kit.

    Raises:
        TrustError: a key, certificate or member's file is damaged.

    """
    last, current = load_published_membership(home), _build_membership(home)
    if current is None:
        return None
    if last is None or replace(current, serial=last.serial, issued=last.issued) != last:
        current = replace(current, serial=last.serial + 1 if last else 1)
        content = _sign_membership(home, current).dumps()
        SignedMembership.loads(content)  # a membership that sites would refuse is never written
        write_atomic(home.membership, content)
    _write_kits(home)
    return load_published_membership(home)


def _build_membership(home: LeadHome) -> Membership | None:
    """Return the membership to sign, with serial number 0."""
    members = home.load_members()
    if not members:
        return None
    project = load_project(home.project)
    return Membership(
        project=project.project,
        lead=project.lead,
        consortium=load_signing_key(home.consortium_key).public_key().public_bytes_raw(),
        ca=fingerprint_certificate(decode_certificate(home.ca.read_bytes(), str(home.ca))),
        serial=0,
        issued=int(time.time()),
        members=tuple(sorted(members, key=lambda member: member.site)),
    )


def _sign_membership(home: LeadHome, membership: Membership) -> SignedMembership:
    former = load_signing_key(home.former_key) if home.former_key.exists() else None
    return sign_membership(membership, load_signing_key(home.consortium_key), former)


def _write_kits(home: LeadHome) -> None:
    content = SignedMembership.loads(home.membership.read_bytes())
    members = {member.site for member in content.membership.members}
    for site in members:
        write_atomic(home.kits / f"{site}.zip", make_kit(content, home.ca.read_bytes(), site))
    for path in home.kits.glob("*.zip"):
        if path.stem not in members:
            path.unlink()


def require_provisioned(home: LeadHome) -> None:
    """Check that the folder holds a project.

    Raises:
        TrustError: it does not.

    """
    if not home.project.exists():
        raise TrustError(
            f"There is no project in {home.path}.",
            "Run `fedhealth lead provision project.yaml` first, or name the folder with --home.",
        )
