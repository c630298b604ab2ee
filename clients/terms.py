"""A hospital's current policy and its decision on a signed job, read again whenever a file of them changes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from fedhealth.consortium.membership import SignedMembership
from fedhealth.consortium.signed_job import SignedJob
from fedhealth.site.home import SiteHome
from fedhealth.site.job_approval import ApprovalDecision, review_job, review_sweep
from fedhealth.site.policy import Policy, load_policy


@dataclass(frozen=True)
class ParticipationTerms:
    """A hospital's current policy, and its decision on a signed job."""

    policy: Policy
    job: SignedJob
    decision: ApprovalDecision


def load_terms(text: str, home: SiteHome) -> ParticipationTerms:
    """Return a hospital's terms for a signed job."""
    return _load_terms(text, home, _get_modification_time(home.policy), _get_modification_time(home.membership))


@lru_cache(maxsize=64)
def _load_terms(text: str, home: SiteHome, *modification_times: int) -> ParticipationTerms:
    """Return the terms; the modification times of policy and members are cache keys."""
    policy, membership = load_policy(home), SignedMembership.loads(home.membership.read_bytes()).membership
    job = SignedJob.parse(text)
    review = review_job if job.budget_request is None else review_sweep
    return ParticipationTerms(policy, job, review(job, policy, membership, home))


def _get_modification_time(path: Path) -> int:
    """Return a file's modification time; 0 if it is missing, since its loader reports that better."""
    return path.stat().st_mtime_ns if path.is_file() else 0
