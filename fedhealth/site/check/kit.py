"""What came from the lead: that the installed kit is whole, this site's, and valid for a while."""

from __future__ import annotations

from collections.abc import Iterator

from fedhealth.consortium.certificates import days_left, digest_of, is_authority, load_certificate
from fedhealth.consortium.identity import load_roster
from fedhealth.consortium.membership import Membership
from fedhealth.errors import TrustError
from fedhealth.site.check.contract import Check, failed, passed, warned
from fedhealth.site.home import SiteHome
from fedhealth.site.install import installed
from fedhealth.site.policy import Policy

_SOON = 30  # days
_AGAIN = "Install the kit again; ask the lead for a new one if that does not help."


def check_kit(home: SiteHome, policy: Policy) -> Iterator[Check]:
    """Yield the checks of membership, roster and certificate."""
    signed = installed(home)
    if signed is None:
        yield failed("kit", "none is installed", "`fedhealth site install KIT.zip`, once the lead has sent it.")
        return
    membership = signed.membership
    faults = list(_faults(home, policy, membership))
    if faults:
        yield failed("kit", "; ".join(faults), _AGAIN)
    else:
        seen = f"{membership.project} number {membership.serial}, {len(membership.members)} member(s)"
        yield passed("kit", f"{seen}, fingerprint {membership.fingerprint}")
    yield _check_authority(home, membership)


def _faults(home: SiteHome, policy: Policy, membership: Membership) -> Iterator[str]:
    own = membership.member(policy.name)
    if membership.lead != policy.lead:
        yield f"it is for the lead {membership.lead}, site.yaml names {policy.lead}"
    if own is None:
        yield f"{policy.name} is not a member"
    elif own.identity != home.identity().public_key().public_bytes_raw() or own.node != home.node_public():
        yield f"it lists other keys for {policy.name} than this site's"
    if load_roster(home.state) != membership.roster:
        yield "the approved members for secure aggregation are others"


def _check_authority(home: SiteHome, membership: Membership) -> Check:
    if not home.ca.is_file():
        raise TrustError(f"{home.ca} is missing.", _AGAIN)
    authority = load_certificate(home.ca.read_bytes(), str(home.ca))
    if not is_authority(authority) or digest_of(authority) != membership.ca:
        return failed("authority", f"{home.ca} is not the one that the membership names", _AGAIN)
    left = days_left(authority)
    seen = f"valid for {left:.0f} more days"
    if left <= 0:
        return failed("authority", "expired or not valid yet", "Check this machine's clock; ask the lead for a kit.")
    return passed("authority", seen) if left > _SOON else warned("authority", seen, "Ask the lead for a new kit soon.")
