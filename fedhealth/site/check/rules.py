"""The hospital's own side: site.yaml, its private keys, its privacy budget, its audit log."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from fedhealth.site import audit_log
from fedhealth.site.check.contract import Check, failed, passed, warned
from fedhealth.site.home import SiteHome
from fedhealth.site.policy import Limits, Policy


def check_policy(policy: Policy) -> Iterator[Check]:
    """Say what the policy allows that is looser than the default."""
    limits, loose = policy.limits, list(_loose(policy.limits))
    if loose:
        yield warned("policy", f"looser than the default: {', '.join(loose)}", "Make sure that this is meant.")
    else:
        yield passed("policy", f"{policy.name}, epsilon {limits.epsilon:g} a run, {limits.life_epsilon:g} for life")
    if not policy.data:
        yield warned("data", "site.yaml names none", "Add a section data; without one every run is declined.")


def _loose(limits: Limits) -> Iterator[str]:
    strict = Limits()
    yield from (f"privacy for {unit} allowed" for unit in limits.units if unit not in strict.units)
    yield from (f"records {name} allowed" for name in limits.records if name not in strict.records)
    if not limits.secure_aggregation:
        yield "secure aggregation not required"
    if limits.exact_weights:
        yield "exact counts may be told"
    for name in ("epsilon", "life_epsilon", "max_delta"):
        if getattr(limits, name) > getattr(strict, name):
            yield f"{name} {getattr(limits, name):g}"
    for name in ("min_sigma", "min_sites", "min_patients"):
        if getattr(limits, name) < getattr(strict, name):
            yield f"{name} {getattr(limits, name):g}"


def check_keys(home: SiteHome) -> Iterator[Check]:
    """Check that keys can be read by this user and by nobody else."""
    home.identity()
    home.node()
    faults = [fault for path in (home.path, home.keys, home.state) if (fault := _open_to_others(path))]
    if faults:
        seen = "; ".join(f"{path} {fault}" for path, fault in faults)
        yield failed("keys", seen, f"Make them yours alone: chmod 700 {' '.join(path for path, _ in faults)}")
    else:
        yield passed("keys", "private to this user")


def _open_to_others(folder: Path) -> tuple[str, str] | None:
    about = folder.stat()
    if about.st_uid != os.getuid():
        return str(folder), "belongs to another user"
    return (str(folder), "is open to others") if stat.S_IMODE(about.st_mode) & 0o077 else None


def check_budget(home: SiteHome, policy: Policy) -> Iterator[Check]:
    """Check every data set's ledger and what is left for life."""
    from fedhealth.privacy.accounting.spending import MUCH, in_all, ledgers

    life, found = policy.limits.life_epsilon, ledgers(home.state)
    for _, path in found:
        spent, delta = in_all(path)
        seen = f"{path.stem}: epsilon {spent:.2f} of {life:g} spent at delta {delta:.1g}"
        if spent >= MUCH * life:
            yield warned("budget", seen, "Runs that would exceed it are declined; `fedhealth site budget` shows them.")
        else:
            yield passed("budget", seen)
    if not found:
        yield passed("budget", f"nothing spent of epsilon {life:g}")


def check_log(home: SiteHome) -> Iterator[Check]:
    """Check the audit log's chain."""
    entries = audit_log.verify(home.audit)
    yield passed("audit log", f"{len(entries)} entries, chain whole, digest {audit_log.digest_of(home.audit)[:16]}")
