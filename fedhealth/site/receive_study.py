"""A hospital receives a study, as a file from the lead's people or with an order: no data are read."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import date

from fedhealth.consortium.membership import Membership
from fedhealth.consortium.research_study import ResearchStudy, verify_study
from fedhealth.consortium.study_text import is_minor_change
from fedhealth.protocol.study_answer import StudyAnswer
from fedhealth.site.audit_log import AuditLog
from fedhealth.site.home import SiteHome
from fedhealth.site.person_name import BY_POLICY
from fedhealth.site.policy import Policy
from fedhealth.site.study_store import StudyDecision, StudyStore

"""Who has decided where `limits.minor_amendments` did."""


def receive_study(content: bytes, membership: Membership, home: SiteHome, policy: Policy) -> ResearchStudy:
    """Store a study that the lead published; a minor amendment counts as approved if the policy says so.

    Raises:
        TrustError: it is malformed, or not signed by the consortium.

    """
    signed, store = verify_study(content, membership), StudyStore(home)
    study, audit = signed.study, AuditLog(home.audit)
    if not store.add_study(signed):
        return study
    audit.write("study received", study=study.name, version=study.version, digest=study.digest)
    if policy.limits.minor_amendments and (before := _find_minor_predecessor(store, study)) is not None:
        store.save_decision(study.digest, replace(before, person=BY_POLICY, time=time.time()))
        audit.write("study approved", study=study.name, version=study.version, digest=study.digest, person=BY_POLICY)
    return study


def suspend_approvals(home: SiteHome) -> None:
    """Ask again for every approval: this machine was restored, and may have forgotten a withdrawal."""
    for digest in StudyStore(home).suspend_approvals():
        AuditLog(home.audit).write("study suspended", digest=digest)


def _find_minor_predecessor(store: StudyStore, study: ResearchStudy) -> StudyDecision | None:
    """Return the decision of an approved version that a minor amendment follows; None if there is none.

    A study that was closed or is over needs a person, whatever the amendment says.
    """
    versions = [each for each in store.load_studies().values() if each.name == study.name]
    if any(each.closed for each in versions):
        return None
    for before in reversed([each for each in versions if each.version < study.version]):
        decision = store.load_decision(before.digest)
        if decision is not None and decision.answer is StudyAnswer.approved:
            is_over = date.today() > date.fromisoformat(before.last_day)
            return decision if not is_over and is_minor_change(before, study) else None
    return None
