"""Check the installed kit: complete, for this site, and not about to expire."""

from __future__ import annotations

from collections.abc import Iterator

from fedhealth.consortium.certificates import (
    compute_days_left,
    decode_certificate,
    fingerprint_certificate,
    is_ca_certificate,
)
from fedhealth.consortium.identity import load_roster
from fedhealth.consortium.membership import Membership
from fedhealth.errors import TrustError
from fedhealth.site.check.base import CheckResult, report_failure, report_pass, report_warning
from fedhealth.site.home import SiteHome
from fedhealth.site.install import load_installed_membership
from fedhealth.site.policy import Policy

_WARN_DAYS = 30  # days
_ADVICE = "Install the kit again. If that does not help, ask the lead for a new one."


def check_kit(home: SiteHome, policy: Policy) -> Iterator[CheckResult]:
    """Yield the checks of membership, roster and certificate."""
    signed = load_installed_membership(home)
    if signed is None:
        yield report_failure(
            "kit", "no kit is installed", "Run `fedhealth site install KIT.zip` with the kit that the lead sent."
        )
        return
    membership = signed.membership
    faults = list(_find_faults(home, policy, membership))
    if faults:
        yield report_failure("kit", "; ".join(faults), _ADVICE)
    else:
        finding = f"{membership.project} number {membership.serial}, {len(membership.members)} member(s)"
        yield report_pass("kit", f"{finding}, fingerprint {membership.fingerprint}")
    yield _check_authority(home, membership)


def _find_faults(home: SiteHome, policy: Policy, membership: Membership) -> Iterator[str]:
    own = membership.member(policy.name)
    if membership.lead != policy.lead:
        yield f"it is for the lead {membership.lead}, but site.yaml names {policy.lead}"
    if own is None:
        yield f"{policy.name} is not a member"
    elif (
        own.identity != home.load_identity_key().public_key().public_bytes_raw()
        or own.node != home.load_node_public_key()
    ):
        yield f"it lists other keys for {policy.name} than the keys in {home.keys}"
    if load_roster(home.state) != membership.roster:
        yield "the roster for secure aggregation lists other members than the kit"


def _check_authority(home: SiteHome, membership: Membership) -> CheckResult:
    if not home.ca.is_file():
        raise TrustError(f"{home.ca} is missing.", _ADVICE)
    authority = decode_certificate(home.ca.read_bytes(), str(home.ca))
    if not is_ca_certificate(authority) or fingerprint_certificate(authority) != membership.ca:
        return report_failure("authority", f"{home.ca} is not the certificate that the membership names", _ADVICE)
    left = compute_days_left(authority)
    finding = f"valid for {left:.0f} more days"
    if left <= 0:
        return report_failure(
            "authority",
            "the authority certificate has expired or is not valid yet",
            "Check this machine's clock, then ask the lead for a new kit.",
        )
    return (
        report_pass("authority", finding)
        if left > _WARN_DAYS
        else report_warning("authority", finding, "Ask the lead for a new kit soon.")
    )
