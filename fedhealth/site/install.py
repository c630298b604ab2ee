"""From a kit to trust: everything that can be checked by this machine is, and the rest is shown to a person."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from fedhealth.consortium.certificates import days_left
from fedhealth.consortium.identity import save_roster
from fedhealth.consortium.join_kit import Kit, read_kit
from fedhealth.consortium.membership import Membership, SignedMembership
from fedhealth.consortium.signatures import check_fingerprint
from fedhealth.errors import TrustError
from fedhealth.site.audit_log import AuditLog
from fedhealth.site.home import SiteHome
from fedhealth.site.policy import Policy, load_policy
from fedhealth.utils.atomic_io import write_atomic
from fedhealth.utils.private_files import make_folder

_ADVICE = "Nothing was installed. Ask the lead what happened, by telephone."


@dataclass(frozen=True)
class Review:
    """A kit that may be installed once a person has agreed.

    Attributes:
        kit: the kit.
        changes: what it changes against the installed one, in sentences; all members when none is installed.

    """

    kit: Kit
    changes: tuple[str, ...]

    @property
    def membership(self) -> Membership:
        """The members it brings."""
        return self.kit.signed.membership

    @property
    def fingerprint(self) -> str:
        """What people compare: the consortium's key and every member."""
        return self.membership.fingerprint


def review(home: SiteHome, content: bytes) -> Review:
    """Check a kit against this site's keys, its site.yaml and the installed kit; a refusal is logged.

    Raises:
        TrustError: it is not this site's next kit.
        ConfigError: site.yaml is missing or faulty.

    """
    with _refusals_logged(home, content):
        policy, kit = load_policy(home), read_kit(content)
        _check_site(home, policy, kit)
        former = installed(home)
        if former is not None:
            _check_succession(former, kit)
        return Review(kit, tuple(_changes(former.membership if former else None, kit.signed.membership)))


def install(home: SiteHome, content: bytes, fingerprint: str | None = None) -> Review:
    """Install a kit: from now on this site trusts its members, its consortium key and its certificate.

    Each file is replaced whole, the membership last but one; between two of them nothing fits, so nothing is trusted,
    and the same kit can be installed again.

    Args:
        home: the site's.
        content: the zip.
        fingerprint: as told by the lead; None where a person has compared it.

    Raises:
        TrustError: as `review`, or another fingerprint.
        ConfigError: as `review`.

    """
    found = review(home, content)
    with _refusals_logged(home, content):
        check_fingerprint(found.fingerprint, fingerprint, "kit")
    membership = found.membership
    fields = {"serial": membership.serial, "fingerprint": found.fingerprint, "changes": list(found.changes)}
    AuditLog(home.audit).write("kit installed", sha256=hashlib.sha256(content).hexdigest(), **fields)
    make_folder(home.kit)
    write_atomic(home.ca, found.kit.authority_pem)
    write_atomic(home.membership, found.kit.signed.dumps())
    save_roster(home.state, {member.site: member.identity for member in membership.members})
    return found


def installed(home: SiteHome) -> SignedMembership | None:
    """Return the installed membership; None before the first kit.

    Raises:
        TrustError: the file is damaged.

    """
    if not home.membership.exists():
        return None
    try:
        return SignedMembership.loads(home.membership.read_bytes())
    except TrustError as fault:
        raise TrustError(
            f"{home.membership} is damaged: {fault.problem}", "Restore it from a backup; it says whom this site trusts."
        ) from fault


def _check_site(home: SiteHome, policy: Policy, kit: Kit) -> None:
    membership = kit.signed.membership
    if membership.lead != policy.lead:
        raise TrustError(f"The kit is for the lead {membership.lead}, site.yaml names {policy.lead}.", _ADVICE)
    own = membership.member(policy.name)
    if own is None:
        raise TrustError(f"{policy.name!r} is not among the kit's members.", _ADVICE)
    if own.identity != home.identity().public_key().public_bytes_raw() or own.node != home.node_public():
        raise TrustError(f"The kit lists other keys for {policy.name!r} than this site's.", _ADVICE)
    if days_left(kit.authority) <= 0:
        raise TrustError("The kit's certificate has expired or is not valid yet.", _ADVICE)


def _check_succession(former: SignedMembership, kit: Kit) -> None:
    """Refuse what cannot follow on the installed kit."""
    old, new = former.membership, kit.signed.membership
    if new.project != old.project:
        raise TrustError(f"The kit is of the consortium {new.project!r}, this site's is {old.project!r}.", _ADVICE)
    if new.consortium != old.consortium and not kit.signed.is_endorsed_by(old.consortium):
        raise TrustError("The kit is signed with a key that the former one does not endorse.", _ADVICE)
    if new.serial < old.serial:
        raise TrustError(f"The kit has number {new.serial}, installed is already {old.serial}.", _ADVICE)
    if new.serial == old.serial and new.body() != old.body():
        raise TrustError(f"The kit differs from the installed one of the same number {new.serial}.", _ADVICE)


def _changes(old: Membership | None, new: Membership) -> Iterator[str]:
    """Yield in sentences what differs; for a first kit nothing does."""
    if old is None:
        return
    before, after = ({member.site: member for member in each.members} for each in (old, new))
    yield from (f"{site} joins, fingerprint {after[site].fingerprint}" for site in sorted(set(after) - set(before)))
    yield from (f"{site} leaves" for site in sorted(set(before) - set(after)))
    for site in sorted(set(before) & set(after)):
        if before[site] != after[site]:
            yield f"{site} has new keys, fingerprint {after[site].fingerprint}"
    if new.consortium != old.consortium:
        yield "the consortium has a new key, endorsed by the former one"
    if new.ca != old.ca:
        yield "the lead's server has a new certificate authority"


@contextmanager
def _refusals_logged(home: SiteHome, content: bytes) -> Iterator[None]:
    """Write into the audit log why a kit was refused."""
    try:
        yield
    except TrustError as fault:
        digest = hashlib.sha256(content).hexdigest()
        AuditLog(home.audit).write("kit refused", sha256=digest, reason=fault.problem[:500])
        raise
