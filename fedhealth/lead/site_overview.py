"""What the lead knows about each hospital: connection, release, kit, last check, last refusal, what does not fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fedhealth.consortium.membership import Membership, SignedMembership
from fedhealth.flower.server.site_contacts import Contact, load_contacts
from fedhealth.lead.connect_control import connect_control
from fedhealth.lead.home import LeadHome
from fedhealth.lead.job_store import iter_jobs
from fedhealth.protocol.compatibility import are_compatible_releases, compute_shared_digest, get_release
from fedhealth.protocol.site_report import SiteReport
from fedhealth.runs.handshakes import read_handshakes
from fedhealth.runs.run_dir import RunDir

if TYPE_CHECKING:  # gRPC takes a second to import, and a run on one machine asks no server
    from fedhealth.flower.server.control_client import ControlClient

ONLINE = "online"


@dataclass(frozen=True)
class SiteProblem:
    """Why a hospital cannot take part in a run now.

    Attributes:
        problem: what is wrong there.
        fix: how to fix it.

    """

    problem: str
    fix: str


@dataclass(frozen=True)
class SiteOverview:
    """One member.

    Attributes:
        site: its name.
        state: `online`, another of Flower's states, or `not registered`.
        contact: its last request; None if there was none.
        problems: why it cannot take part, as far as its report shows.
        refusal: reasons and fix of its refusal of the latest run that asked it; empty if it accepted.

    """

    site: str
    state: str
    contact: Contact | None
    problems: tuple[SiteProblem, ...]
    refusal: str


def load_node_names(home: LeadHome) -> dict[int, str]:
    """Return the names of the members by Flower's node id, by the keys that are registered at the server."""
    with connect_control(home) as control:
        return _name_nodes(control, _load_membership(home))


def load_reports(home: LeadHome) -> dict[str, SiteReport]:
    """Return the last report of every member that has sent one.

    Raises:
        ConfigError: the server is not running.

    """
    names, contacts = load_node_names(home), load_contacts(home.contacts)
    return {names[node]: each.report for node, each in contacts.items() if node in names and each.report}


def list_sites(home: LeadHome) -> list[SiteOverview]:
    """Return what is known about every member, sorted by name.

    Raises:
        ConfigError: the server is not running.

    """
    membership = _load_membership(home)
    contacts = load_contacts(home.contacts)
    with connect_control(home) as control:
        names = {name: node for node, name in _name_nodes(control, membership).items()}
        states = {node.id: node.status for node in control.list_nodes()}
    refusals = find_last_refusals(home)
    return [
        SiteOverview(
            member.site,
            states.get(names.get(member.site, 0), "not registered"),
            contact := contacts.get(names.get(member.site, 0)),
            tuple(find_site_problems(contact.report, membership.serial)) if contact and contact.report else (),
            refusals.get(member.site, ""),
        )
        for member in membership.members
    ]


def find_site_problems(report: SiteReport, kit: int) -> Iterator[SiteProblem]:
    """Yield why a site with this report would refuse every job.

    Args:
        report: of the site.
        kit: serial number of the lead's membership.

    """
    own = get_release()
    if not are_compatible_releases(report.release, own):
        yield SiteProblem(
            f"it has release {report.release}, the lead {own}: more than one minor version apart",
            "Install releases that are at most one minor version apart.",
        )
    elif report.code != compute_shared_digest():
        yield SiteProblem(
            f"release {report.release} computes something else than the lead's {own}",
            "Install the same release on both sides.",
        )
    if report.kit != kit:
        yield SiteProblem(
            f"it has kit number {report.kit}, the latest is {kit}",
            "Send the hospital its latest kit; its staff installs it with `fedhealth site install`.",
        )


def describe_problems(site: SiteOverview) -> str:
    """Return what keeps a hospital from taking part, with the fix, and its last refusal, a line each."""
    lines = [f"{each.problem}. {each.fix}" for each in site.problems]
    return "\n".join([*lines, *([f"last refusal: {site.refusal}"] if site.refusal else [])])


def find_last_refusals(home: LeadHome) -> dict[str, str]:
    """Return reasons and fix of each site's refusal of the latest run that asked it; nothing for one that accepted."""
    replies = [reply for job in iter_jobs(home) for reply in read_handshakes(RunDir(Path(job.folder)))]
    found = {
        reply.site: _join_sentences(*reply.reasons, reply.fix) for reply in sorted(replies, key=lambda each: each.time)
    }
    return {site: text for site, text in found.items() if text}


def _join_sentences(*parts: str) -> str:
    return " ".join(f"{part.rstrip('.')}." for part in parts if part)


def _load_membership(home: LeadHome) -> Membership:
    return SignedMembership.loads(home.membership.read_bytes()).membership


def _name_nodes(control: ControlClient, membership: Membership) -> dict[int, str]:
    names = {member.node.strip(): member.site for member in membership.members}
    return {node.id: names[key] for node in control.list_nodes() if (key := node.public_key.strip()) in names}
