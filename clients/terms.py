"""A hospital's current policy, its study and its decision on a signed job, read again whenever a file changes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

from fedhealth.consortium.membership import SignedMembership
from fedhealth.consortium.research_study import ResearchStudy
from fedhealth.consortium.signed_job import SignedJob
from fedhealth.site.home import SiteHome
from fedhealth.site.job_approval import ApprovalDecision, review_job, review_sweep
from fedhealth.site.policy import Policy, load_policy
from fedhealth.site.study_store import StudyStore
from fedhealth.site.study_terms import StudyTerms, find_study_change, read_study_terms


@dataclass(frozen=True)
class ParticipationTerms:
    """A hospital's current policy, what it says about the study of a signed job, and its decision on the job."""

    policy: Policy
    job: SignedJob
    decision: ApprovalDecision
    study: StudyTerms = field(default_factory=StudyTerms)


def load_terms(text: str, home: SiteHome) -> ParticipationTerms:
    """Return a hospital's terms for a signed job; dates and decisions about its study are read for every message."""
    times = _get_modification_time(home.policy), _get_modification_time(home.membership)
    job = SignedJob.parse(text)
    study = read_study_terms(job, home, load_policy(home))
    if study.reason:
        return ParticipationTerms(load_policy(home), job, ApprovalDecision((), (study.reason,)), study)
    return replace(_load_terms(text, home, *times), study=study)


@lru_cache(maxsize=64)
def _load_terms(text: str, home: SiteHome, *modification_times: int) -> ParticipationTerms:
    """Return the terms; the modification times of policy and members are cache keys."""
    policy, membership = load_policy(home), SignedMembership.loads(home.membership.read_bytes()).membership
    job = SignedJob.parse(text)
    if job.study and (change := _find_change(job, StudyStore(home).load_studies()[job.study], policy)):
        return ParticipationTerms(policy, job, ApprovalDecision((), (change,)))
    review = review_job if job.budget_request is None else review_sweep
    return ParticipationTerms(policy, job, review(job, policy, membership, home))


def _find_change(job: SignedJob, study: ResearchStudy, policy: Policy) -> str:
    """Return how a job, or a run of its sweep, leaves its study; empty if none does."""
    planned = [run.overrides for run in job.budget_request.runs] if job.budget_request else []
    changes = (find_study_change(study, overrides, policy) for overrides in (job.overrides, *planned))
    return next(filter(None, changes), "")


def _get_modification_time(path: Path) -> int:
    """Return a file's modification time; 0 if it is missing, since its loader reports that better."""
    return path.stat().st_mtime_ns if path.is_file() else 0
