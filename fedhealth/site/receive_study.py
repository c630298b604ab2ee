"""A hospital receives a study, as a file from the lead's people or with an order: no data are read."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import replace
from datetime import date

from fedhealth.consortium.membership import Membership
from fedhealth.consortium.research_study import ResearchStudy, verify_study
from fedhealth.consortium.study_text import is_minor_change
from fedhealth.errors import PrivacyError, TrustError
from fedhealth.protocol.study_answer import StudyAnswer
from fedhealth.site.audit_log import AuditLog
from fedhealth.site.home import SiteHome
from fedhealth.site.person_name import BY_POLICY
from fedhealth.site.policy import Policy
from fedhealth.site.study_shares import extend_share, release_unapproved_shares
from fedhealth.site.study_store import StudyDecision, StudyStore

"""Who has decided where `limits.minor_amendments` did."""


def receive_study(content: bytes, membership: Membership, home: SiteHome, policy: Policy) -> ResearchStudy:
    """Store a study that the lead published; a minor amendment counts as approved if the policy says so.

    Raises:
        TrustError: it is malformed, not signed by the consortium, or another one of its name and version is known.

    """
    signed, store = verify_study(content, membership), StudyStore(home)
    study, audit = signed.study, AuditLog(home.audit)
    with store.lock_decisions():
        _check_only(study, store, audit)
        if not store.add_study(signed):
            return study
        audit.write("study received", study=study.name, version=study.version, digest=study.digest)
        if policy.limits.minor_amendments and (before := _find_minor_predecessor(store, study)) is not None:
            _approve_by_policy(study, before, home)
        if study.closed:
            with suppress(PrivacyError):  # in use: given back with the next decision, or when the site starts
                release_unapproved_shares(home)
    return study


def _check_only(study: ResearchStudy, store: StudyStore, audit: AuditLog) -> None:
    """Raise if a study of the same name and version has another content; a study can be closed in any case."""
    if study.closed:
        return
    others = [each for each in store.read_studies().list_versions(study.name) if each.version == study.version]
    other = next((each for each in others if each.digest != study.digest), None)
    if other is None:
        return
    problem = f"{study.label} is known here with other content: {other.digest[:12]}, not {study.digest[:12]}."
    audit.write("study refused", study=study.name, version=study.version, digest=study.digest, reason=problem)
    raise TrustError(problem, "Ask the lead which of the two they published, and for a new version of it.")


def _approve_by_policy(study: ResearchStudy, before: StudyDecision, home: SiteHome) -> None:
    """Take over the decision on the version before; what it holds stays reserved until the new last day."""
    decision = replace(before, person=BY_POLICY, time=time.time(), version=study.version)
    StudyStore(home).save_decision(study.digest, decision)
    told = {"study": study.name, "version": study.version, "digest": study.digest}
    AuditLog(home.audit).write("study approved", **told, person=BY_POLICY)
    with suppress(PrivacyError):  # in use: the next run of the study reserves it
        extend_share(study, decision.ledger, home)


def suspend_approvals(home: SiteHome) -> None:
    """Ask again for every approval: this machine was restored, and may have forgotten a withdrawal."""
    for digest in StudyStore(home).suspend_approvals():
        AuditLog(home.audit).write("study suspended", digest=digest)


def _find_minor_predecessor(store: StudyStore, study: ResearchStudy) -> StudyDecision | None:
    """Return the decision of an approved version that a minor amendment follows; None if there is none.

    A study that was closed or is over needs a person, whatever the amendment says.
    """
    stored = store.read_studies()
    if stored.is_closed(study.name):
        return None
    versions = [each for each in stored.studies.values() if each.name == study.name]
    for before in reversed([each for each in versions if each.version < study.version]):
        decision = store.load_decision(before.digest)
        if decision is not None and decision.answer is StudyAnswer.approved:
            is_over = date.today() > date.fromisoformat(before.last_day)
            return decision if not is_over and is_minor_change(before, study) else None
    return None
