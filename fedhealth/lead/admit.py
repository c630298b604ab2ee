"""Admit a site to the consortium, or revoke it for good."""

from __future__ import annotations

from fedhealth.consortium.join_request import read_request
from fedhealth.consortium.membership import Member, Membership
from fedhealth.consortium.signatures import check_fingerprint
from fedhealth.errors import ConfigError, TrustError
from fedhealth.lead.home import LeadHome
from fedhealth.lead.project import load_project
from fedhealth.lead.publish_membership import publish_membership, require_provisioned


def review_join_request(home: LeadHome, content: bytes) -> Member:
    """Verify a join request and return the member that it describes; people still have to compare its fingerprint.

    Raises:
        TrustError: the request is malformed, its signatures are invalid, or its keys are revoked or another member's.
        ConfigError: the request is for another lead, or the name is taken.

    """
    require_provisioned(home)
    request, project = read_request(content), load_project(home.project)
    if request.lead != project.lead:
        raise ConfigError(
            f"The join request is for the lead {request.lead}, but this project's address is {project.lead}.",
            f"Ask the site to run `fedhealth site init --lead {project.lead}` again.",
        )
    member = request.member
    if any(member.identity == gone.identity or member.node == gone.node for gone in home.load_revoked_members()):
        raise TrustError(f"The keys of {member.site!r} were revoked.", "Ask the site to set up again with new keys.")
    for other in home.load_members():
        if other.site == member.site and other != member:
            raise ConfigError(
                f"{member.site!r} is already a member, with other keys.",
                f"If the site has new keys, run `fedhealth lead revoke {member.site}` first.",
            )
        if other.site != member.site and (other.identity == member.identity or other.node == member.node):
            raise TrustError(
                f"The join request of {member.site!r} holds keys of {other.site!r}.",
                "Nothing was admitted. Ask both sites what happened.",
            )
    return member


def admit_member(home: LeadHome, content: bytes, fingerprint: str | None = None) -> Member:
    """Admit the sender of a join request, sign the new membership, and write every kit.

    Args:
        home: the lead's folder.
        content: the join request.
        fingerprint: as the site gave it; None if a person has compared it.

    Raises:
        TrustError: as in `review_join_request`, or the fingerprint differs.
        ConfigError: as in `review_join_request`.

    """
    require_provisioned(home)
    with home.lock():
        member = review_join_request(home, content)
        check_fingerprint(member.fingerprint, fingerprint, "request")
        home.save_member(member)
        publish_membership(home)
    return member


def revoke_member(home: LeadHome, site: str) -> Membership:
    """Remove a site for good: its keys are never admitted again.

    Raises:
        ConfigError: there is no such member, or it is the last one.
        TrustError: a file of the lead's folder is damaged.

    """
    require_provisioned(home)
    with home.lock():
        members = {member.site: member for member in home.load_members()}
        if set(members) == {site}:
            raise ConfigError(
                f"{site!r} is the last member and cannot be revoked.", "Admit another site first, or end the project."
            )
        if site in members:
            home.add_revoked_member(members[site])
        home.remove_member(site)
        membership = publish_membership(home)
    assert membership is not None  # noqa: S101 - a member is left
    return membership
