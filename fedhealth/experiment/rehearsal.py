"""What follows a run on one machine: baselines are trained and its private training is audited, side by side."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from typing import TYPE_CHECKING

from fedhealth.config.capabilities import get_capability
from fedhealth.config.schema import Config
from fedhealth.experiment.baselines import compare_baselines
from fedhealth.experiment.warm_workers import compute_each, start_workers
from fedhealth.privacy.auditing.blank_values import audit_blanks
from fedhealth.protocol.job import Job
from fedhealth.runs.load_record import load_run_record
from fedhealth.runs.run_dir import RunDir

if TYPE_CHECKING:
    from fedhealth.experiment.privacy_audit import SiteAudit


def assess_rehearsal(job: Job, config: Config, run: RunDir) -> list[str]:
    """Write the comparison with the baselines and the audit into the run's directory.

    Returns:
        Which checks of the audit failed, a sentence part for each site.

    """
    with start_workers(config.baselines.workers) as pool:
        audits = _start_audits(job, config, pool)
        compare_baselines(job, config, run, pool)
        return _finish_audits(audits, config, run) if audits is not None else []


def _start_audits(job: Job, config: Config, pool: Executor | None) -> Iterator[tuple[str, SiteAudit]] | None:
    """Return the audits of the sites' private training; a pool begins with them at once, before the baselines."""
    if not config.evaluation.audit or not get_capability(config.privacy, "is_auditable", default=False):
        return None
    from fedhealth.experiment.privacy_audit import audit_rehearsal  # imports what private training needs

    return compute_each(audit_rehearsal, config.data.sites, job, pool)


def _finish_audits(audits: Iterator[tuple[str, SiteAudit]], config: Config, run: RunDir) -> list[str]:
    from fedhealth.experiment.privacy_audit import describe_failures, write_audit

    run.append_event("auditing")
    found = dict(audits)
    results = [found[site] for site in config.data.sites]
    write_audit(run, results)
    for each in results:
        if each.skipped:
            run.append_event("caution", title=f"{each.site}: part of the audit was skipped", text=each.skipped)
    measured = load_run_record(run.path).opened_noise
    sums = [f"{each.name} ({each.detail})" for each in audit_blanks(measured) if not each.passed]
    return [describe_failures(each) for each in results if not each.has_passed] + sums
