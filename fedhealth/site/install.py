"""Install a kit from the lead: the machine verifies what it can, a person compares the fingerprint."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from fedhealth.consortium.certificates import compute_days_left
from fedhealth.consortium.identity import save_roster
from fedhealth.consortium.join_kit import JoinKit, read_kit
from fedhealth.consortium.membership import Membership, SignedMembership
from fedhealth.consortium.signatures import check_fingerprint
from fedhealth.errors import TrustError
from fedhealth.site.audit_log import AuditLog
from fedhealth.site.home import SiteHome
from fedhealth.site.policy import Policy, load_policy
from fedhealth.utils.atomic_io import write_atomic
from fedhealth.utils.file_lock import lock_file
from fedhealth.utils.private_files import make_private_folder

_ADVICE = "Nothing was installed. Telephone the lead and ask for the right kit."


@dataclass(frozen=True)
class KitReview:
    """A verified kit that may be installed once a person has approved it.

    Attributes:
        kit: the kit.
        changes: how it differs from the installed kit, in sentences; empty for the first kit.

    """

    kit: JoinKit
    changes: tuple[str, ...]

    @property
    def membership(self) -> Membership:
        """The members that it lists."""
        return self.kit.signed.membership

    @property
    def fingerprint(self) -> str:
        """The fingerprint that people compare; it covers the consortium's key and every member."""
        return self.membership.fingerprint


def review_kit(home: SiteHome, content: bytes) -> KitReview:
    """Verify a kit against this site's keys, its site.yaml and the installed kit; log a refusal to the audit log.

    Raises:
        TrustError: the kit is not valid for this site.
        ConfigError: site.yaml is missing or faulty.

    """
    with _log_refusals(home, content):
        policy, kit = load_policy(home), read_kit(content)
        _check_site(home, policy, kit)
        former = load_installed_membership(home)
        if former is not None:
            _check_succession(former, kit)
        return KitReview(kit, tuple(_describe_changes(former.membership if former else None, kit.signed.membership)))


def install_kit(home: SiteHome, content: bytes, fingerprint: str | None = None) -> KitReview:
    """Install a kit: from now on this site trusts its members, its consortium key and its certificate.

    Each file is replaced atomically. After a crash in between, the files do not match each other, so the site trusts
    nothing until the same kit is installed again.

    Args:
        home: the hospital's folder.
        content: the zip file.
        fingerprint: as the lead gave it; None if a person has compared it.

    Raises:
        TrustError: as in `review_kit`, or the fingerprint differs.
        ConfigError: as in `review_kit`.

    """
    with _lock_kit(home):
        return _install_reviewed_kit(home, content, fingerprint)


def _install_reviewed_kit(home: SiteHome, content: bytes, fingerprint: str | None) -> KitReview:
    """Review and install a kit; the caller holds the lock, so no newer kit is installed in between."""
    review = review_kit(home, content)
    with _log_refusals(home, content):
        check_fingerprint(review.fingerprint, fingerprint, "kit")
    membership = review.membership
    fields = {"serial": membership.serial, "fingerprint": review.fingerprint, "changes": list(review.changes)}
    AuditLog(home.audit).write("kit installed", sha256=hashlib.sha256(content).hexdigest(), **fields)
    make_private_folder(home.kit)
    write_atomic(home.ca, review.kit.authority_pem)
    write_atomic(home.membership, review.kit.signed.dumps())
    save_roster(home.state, {member.site: member.identity for member in membership.members})
    return review


def load_installed_membership(home: SiteHome) -> SignedMembership | None:
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
            f"{home.membership} is damaged: {fault.problem}", "Restore it from a backup, or ask the lead for a new kit."
        ) from fault


def _check_site(home: SiteHome, policy: Policy, kit: JoinKit) -> None:
    membership = kit.signed.membership
    if membership.lead != policy.lead:
        raise TrustError(f"The kit is for the lead {membership.lead}, but site.yaml names {policy.lead}.", _ADVICE)
    own = membership.member(policy.name)
    if own is None:
        raise TrustError(f"The kit does not list this site ({policy.name!r}) as a member.", _ADVICE)
    if (
        own.identity != home.load_identity_key().public_key().public_bytes_raw()
        or own.node != home.load_node_public_key()
    ):
        raise TrustError(f"The kit lists other keys for {policy.name!r} than the keys in {home.keys}.", _ADVICE)
    if compute_days_left(kit.authority) <= 0:
        raise TrustError("The kit's certificate has expired or is not valid yet.", _ADVICE)


def _check_succession(former: SignedMembership, kit: JoinKit) -> None:
    """Refuse a kit that is no valid successor of the installed one."""
    old, new = former.membership, kit.signed.membership
    if new.project != old.project:
        raise TrustError(
            f"The kit is for the consortium {new.project!r}, but this site belongs to {old.project!r}.", _ADVICE
        )
    if new.consortium != old.consortium and not kit.signed.is_endorsed_by(old.consortium):
        raise TrustError("The kit is signed with a new consortium key, which the former one does not endorse.", _ADVICE)
    if new.serial < old.serial:
        raise TrustError(
            f"The kit is older than the installed one: number {new.serial}, installed {old.serial}.", _ADVICE
        )
    if new.serial == old.serial and new.body() != old.body():
        raise TrustError(f"The kit differs from the installed one of the same number {new.serial}.", _ADVICE)


def _describe_changes(old: Membership | None, new: Membership) -> Iterator[str]:
    """Yield the differences as sentences; none for a first kit."""
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
def _lock_kit(home: SiteHome) -> Iterator[None]:
    """Hold a lock: no other process installs a kit meanwhile."""
    make_private_folder(home.daemon_folder)
    with lock_file(home.daemon_folder / "kit.lock"):
        yield


@contextmanager
def _log_refusals(home: SiteHome, content: bytes) -> Iterator[None]:
    """Log to the audit log why a kit was refused."""
    try:
        yield
    except TrustError as fault:
        digest = hashlib.sha256(content).hexdigest()
        AuditLog(home.audit).write("kit refused", sha256=digest, reason=fault.problem[:500])
        raise
