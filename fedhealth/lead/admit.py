"""Who belongs to the consortium: admitted by name and keys, revoked for good."""

from __future__ import annotations

from fedhealth.consortium.join_request import read_request
from fedhealth.consortium.membership import Member, Membership
from fedhealth.consortium.signatures import check_fingerprint
from fedhealth.errors import ConfigError, TrustError
from fedhealth.lead.home import LeadHome
from fedhealth.lead.project import load_project
from fedhealth.lead.publish_membership import publish, require_provisioned


def examine(home: LeadHome, content: bytes) -> Member:
    """Return the member that a join request asks for, if the lead's people may admit it after comparing fingerprints.

    Raises:
        TrustError: a malformed or unproven request, or keys that were revoked or belong to another member.
        ConfigError: a request for another lead, or a name that is taken.

    """
    require_provisioned(home)
    request, project = read_request(content), load_project(home.project)
    if request.lead != project.lead:
        raise ConfigError(
            f"The request is for the lead {request.lead}, this project's is {project.lead}.",
            f"Ask the site to repeat `fedhealth site init --lead {project.lead}`.",
        )
    member = request.member
    if any(member.identity == gone.identity or member.node == gone.node for gone in home.revoked()):
        raise TrustError(f"The keys of {member.site!r} were revoked.", "The site sets up again, with new keys.")
    for other in home.members():
        if other.site == member.site and other != member:
            raise ConfigError(
                f"{member.site!r} is a member with other keys.",
                f"If the site has new keys: `fedhealth lead revoke {member.site}` first.",
            )
        if other.site != member.site and (other.identity == member.identity or other.node == member.node):
            raise TrustError(f"{member.site!r} asks with keys of {other.site!r}.", "Ask both sites what happened.")
    return member


def admit(home: LeadHome, content: bytes, fingerprint: str | None = None) -> Member:
    """Admit the sender of a join request, sign the members anew, and write every kit.

    Args:
        home: the lead's.
        content: the request.
        fingerprint: as told by the site; None where a person has compared it.

    Raises:
        TrustError: as `examine`, or another fingerprint.
        ConfigError: as `examine`.

    """
    require_provisioned(home)
    with home.held():
        member = examine(home, content)
        check_fingerprint(member.fingerprint, fingerprint, "request")
        home.save_member(member)
        publish(home)
    return member


def revoke(home: LeadHome, site: str) -> Membership:
    """Take a site out for good: its keys are never admitted again.

    Raises:
        ConfigError: no such member, or the last one.
        TrustError: a file of the lead's home is damaged.

    """
    require_provisioned(home)
    with home.held():
        members = {member.site: member for member in home.members()}
        if set(members) == {site}:
            raise ConfigError(f"{site!r} is the last member.", "Admit another one first, or end the project.")
        if site in members:
            home.add_revoked(members[site])
        home.drop_member(site)
        membership = publish(home)
    assert membership is not None  # noqa: S101 - a member is left
    return membership
