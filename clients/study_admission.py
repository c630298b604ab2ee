"""Whether a request of a study's run may touch the data: only data that were approved, and no run beyond the study's.

A run claims its part of the study's share when it shakes hands, and once more before it touches data for the first
time: in between, another run may have taken it.

Everything that can be compared without files was compared before (`fedhealth.site.study_terms`). Here the digests of
pretrained weights are compared with those of the study, and the digest of the data with that of the approval; nothing
else of the data is.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress

from flwr.app import RecordDict

from clients.context import SiteContext
from clients.institution import Institution, build_refusal
from clients.message import ParsedMessage
from clients.terms import ParticipationTerms
from fedhealth.consortium.research_study import ResearchStudy
from fedhealth.errors import PrivacyError
from fedhealth.models.weights import find_other_weights
from fedhealth.privacy.accounting.reservations import parse_cost
from fedhealth.privacy.accounting.study_claim import StudyRuns, claim_share
from fedhealth.protocol.job import compose_job_config
from fedhealth.protocol.messages import ACCEPTANCE, DATA_KINDS, HANDSHAKE, Acceptance, get_versions
from fedhealth.protocol.study_answer import StudyAnswer
from fedhealth.site.audit_log import AuditLog
from fedhealth.site.home import SiteHome
from fedhealth.site.job_history import find_ended_runs
from fedhealth.site.policy import Policy
from fedhealth.site.study_shares import make_share, release_unapproved_shares
from fedhealth.site.study_store import StudyDecision, StudyStore

log = logging.getLogger("fedhealth.site")


def find_admission_refusal(
    terms: ParticipationTerms, home: SiteHome, institution: Institution, message: ParsedMessage
) -> str:
    """Return why a request may not touch the data; empty if it may. A run that may is recorded before it does."""
    study, approval = terms.study.study, terms.study.approval
    if study is None or approval is None or message.kind not in (HANDSHAKE, *DATA_KINDS):
        return ""
    if reason := _find_other_weights(study, terms.policy) or _find_other_data(study, approval, institution, home):
        return reason
    store, run = StudyStore(home), message.directive.run
    begun = store.list_runs(study.name)
    used = f"all {study.runs} runs of the study {study.name} are used"
    if run not in begun and len(begun) >= study.runs:
        return used
    if (message.kind == HANDSHAKE or run not in begun) and (
        reason := _claim_share(study, approval, home, {run: institution})
    ):
        return reason
    is_begun = message.kind == HANDSHAKE or store.record_run(study.name, run, study.runs)
    return "" if is_begun else used


def reserve_study_sweep(terms: ParticipationTerms, home: SiteHome, site: SiteContext) -> RecordDict:
    """Reply to the budget request of a sweep that belongs to an approved study: its share pays for all runs."""
    study, approval = terms.study.study, terms.study.approval
    assert study is not None  # noqa: S101 - the caller has an approval
    assert approval is not None  # noqa: S101 - as above
    starting = {job.run: Institution(site, compose_job_config(job), job.digest) for job in terms.decision.jobs}
    changed = (_find_other_data(study, approval, each, home) for each in starting.values())
    reason = _find_other_weights(study, terms.policy) or next(filter(None, changed), "")
    reason = reason or _claim_share(study, approval, home, starting)
    if reason:
        log.warning("declined: %s", reason)
        return build_refusal(site.name, [reason])
    asked = terms.job.budget_request.epsilon if terms.job.budget_request else 0.0
    return RecordDict({ACCEPTANCE: Acceptance(site.name, (), {}, get_versions(), reserved=round(asked, 3)).record()})


def _claim_share(
    study: ResearchStudy, approval: StudyDecision, home: SiteHome, starting: Mapping[str, Institution]
) -> str:
    """Reserve a study's share for runs that are about to begin; return why that fails, empty if it does not."""
    try:
        planned = {run: plan for run, each in starting.items() if (plan := each.plan_run())}
        share = make_share(study)
        if not planned or share is None:
            return ""
        if not approval.price:
            return f"{study.label} was approved without a price of its runs: approve it again"
        plans = {run: plan for run, (_, plan) in planned.items()}
        runs = StudyRuns(StudyStore(home).list_runs(study.name), find_ended_runs(home.state), plans)
        budget = next(iter(planned.values()))[0]
        if budget.dataset != approval.ledger:
            return f"the data set of {study.label} had another name when it was approved: restore it, or approve again"
        claim_share(budget, home.state, share, parse_cost(approval.price), runs)
    except PrivacyError as fault:
        return fault.problem
    return ""


def _find_other_weights(study: ResearchStudy, policy: Policy) -> str:
    names = find_other_weights(study.weights, policy.resources.weights)
    return f"the weights {', '.join(names)} are not those of {study.label}" if names else ""


def _find_other_data(study: ResearchStudy, approval: StudyDecision, institution: Institution, home: SiteHome) -> str:
    """Return whether the data are not those of the approval; other ones end it, data that cannot be read do not."""
    found = _read_digest(institution)
    if found == approval.data:
        return ""
    if found and StudyStore(home).end_approval(study.digest, StudyAnswer.outdated):
        AuditLog(home.audit).write("study outdated", study=study.name, version=study.version, digest=study.digest)
    return f"the data are not those that {study.label} was approved on: approve it again"


def release_closed_study(terms: ParticipationTerms, home: SiteHome) -> None:
    """Give back the share of a study that the lead has closed."""
    if (study := terms.study.study) is not None and study.closed:
        with suppress(PrivacyError):  # in use: the reservation ends with the study's last day
            release_unapproved_shares(home)


def _read_digest(institution: Institution) -> str:
    """Return the digest of the data as they are now; empty if they cannot be read."""
    try:
        return institution.setup.data_digest
    except Exception:  # whatever it is, the lead reads the same
        log.warning("the data cannot be read as they were approved", exc_info=True)
        return ""
