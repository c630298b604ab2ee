"""Check site.yaml, the private keys, the privacy budget, the stored studies and the audit log."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from fedhealth.site import audit_log
from fedhealth.site.check.base import CheckResult, report_failure, report_pass, report_warning
from fedhealth.site.home import SiteHome
from fedhealth.site.policy import Policy, SiteLimits
from fedhealth.site.study_store import StudyStore
from fedhealth.utils.privacy_text import format_delta, format_epsilon, format_guarantee, format_local_epsilon


def check_policy(policy: Policy) -> Iterator[CheckResult]:
    """Warn of every limit that is looser than the default."""
    limits, loose = policy.limits, list(_find_loose_limits(policy.limits))
    if loose:
        yield report_warning(
            "policy", f"looser than the default: {', '.join(loose)}", "Make sure that this is intended."
        )
    else:
        run = f"epsilon {limits.epsilon:g} per run (delta at most {format_delta(limits.max_delta)})"
        life = format_epsilon(limits.lifetime_epsilon, limits.delta)
        finding = f"{policy.name}, {run}, {life} for each patient for life"
        yield report_pass("policy", finding)
    if not policy.data:
        yield report_warning(
            "data", "site.yaml offers no data", "Add a section `data`; without it every run is declined."
        )


def _find_loose_limits(limits: SiteLimits) -> Iterator[str]:
    strict = SiteLimits()
    yield from (f"privacy for {unit} allowed" for unit in limits.units if unit not in strict.units)
    yield from (f"records {name} allowed" for name in limits.records if name not in strict.records)
    if not limits.secure_aggregation:
        yield "secure aggregation not required"
    if limits.unattended_studies:
        yield "runs need no approved study"
    if limits.minor_amendments:
        yield "new dates and texts of a study need no approval"
    if limits.changing_cohorts:
        yield "sums without privacy may change their contributors"
    if limits.exact_weights:
        yield "exact numbers of rows may leave"
    if limits.word_embeddings:
        yield "rows of word embeddings may leave without privacy"
    if limits.colluders == 0:
        yield "no member is assumed to collude with the lead"
    if limits.min_honest is not None and limits.min_honest < 2:
        yield f"min_honest {limits.min_honest}"
    if limits.epsilon > strict.epsilon:
        yield f"epsilon {limits.epsilon:g} per run (delta at most {format_delta(limits.max_delta)})"
    if limits.lifetime_epsilon > strict.lifetime_epsilon:
        yield f"lifetime_{format_epsilon(limits.lifetime_epsilon, limits.delta)} for each patient"
    if limits.local_epsilon is not None:
        yield f"noise may be shared: local epsilon {limits.local_epsilon:g} per run at the run's delta"
    for name in ("max_delta", "delta"):
        if getattr(limits, name) > getattr(strict, name):
            yield f"{name} {getattr(limits, name):g}"
    if limits.max_failures is None or limits.max_failures > (strict.max_failures or 0):
        yield f"max_failures {limits.max_failures}"
    for name in ("min_noise_multiplier", "min_sites", "min_patients"):
        if getattr(limits, name) < getattr(strict, name):
            yield f"{name} {getattr(limits, name):g}"


def check_keys(home: SiteHome) -> Iterator[CheckResult]:
    """Check that only this user can read the keys."""
    home.load_identity_key()
    home.load_node_key()
    faults = [fault for path in (home.path, home.keys, home.state) if (fault := _open_to_others(path))]
    if faults:
        finding = "; ".join(f"{path} {fault}" for path, fault in faults)
        yield report_failure(
            "keys", finding, f"Remove the access of other users: chmod 700 {' '.join(path for path, _ in faults)}"
        )
    else:
        yield report_pass("keys", "readable by this user only")


def _open_to_others(folder: Path) -> tuple[str, str] | None:
    about = folder.stat()
    if about.st_uid != os.getuid():
        return str(folder), "belongs to another user"
    return (str(folder), "is accessible to other users") if stat.S_IMODE(about.st_mode) & 0o077 else None


def check_budget(home: SiteHome, policy: Policy) -> Iterator[CheckResult]:
    """Check every data set's ledger and how much of its lifetime budget is left."""
    from fedhealth.privacy.accounting.ledger_folder import find_ledgers
    from fedhealth.privacy.accounting.spending import HIGH_SPENDING_SHARE, compute_dataset_spending

    life, found = policy.limits.lifetime_epsilon, find_ledgers(home.state)
    for site, path in found:
        spent = compute_dataset_spending(site, path, policy.limits.delta)
        used = format_guarantee(spent.epsilon, spent.delta, spent.noise_multiplier, spent.unit)
        finding = f"{path.stem}: {used} or more; the limit is {life:g}"
        if spent.local_epsilon is not None:
            finding += f"; {format_local_epsilon(spent.local_epsilon, spent.delta)}"
        if spent.epsilon >= HIGH_SPENDING_SHARE * life:
            yield report_warning(
                "budget", finding, "Runs that would exceed it are declined; `fedhealth site budget` shows them."
            )
        else:
            yield report_pass("budget", finding)
    if not found:
        yield report_pass("budget", f"nothing spent of {format_epsilon(life, policy.limits.delta)}")


def check_own_state(home: SiteHome, policy: Policy) -> Iterator[CheckResult]:
    """Check that the site's books are not older than what it has signed."""
    from fedhealth.secagg.client.statement_book import RestoredSiteError
    from fedhealth.site.recovery import open_home_book

    try:
        open_home_book(home, policy).require_current()
    except RestoredSiteError as fault:
        yield report_failure("own state", fault.problem, fault.advice)
    else:
        yield report_pass("own state", "the books know everything that this site has signed")


def check_studies(home: SiteHome) -> Iterator[CheckResult]:
    """Check that this release accepts every stored study."""
    stored = StudyStore(home).read_studies()
    for refused in stored.refused:
        yield report_failure("studies", refused.sentence, refused.advice)
    if not stored.refused:
        yield report_pass("studies", f"{len(stored.studies)} stored, this release accepts each of them")


def check_log(home: SiteHome) -> Iterator[CheckResult]:
    """Verify the audit log's hash chain."""
    entries = audit_log.verify_log(home.audit)
    yield report_pass(
        "audit log", f"{len(entries)} entries, hash chain intact, digest {audit_log.get_log_digest(home.audit)[:16]}"
    )
