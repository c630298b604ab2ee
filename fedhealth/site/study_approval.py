"""A hospital's people decide on a study; what a decision reserves in the privacy ledger belongs to it."""

from __future__ import annotations

import getpass
import logging
import time
from contextlib import suppress
from datetime import date
from typing import Any

from omegaconf import OmegaConf

from fedhealth.config.instantiate import instantiate
from fedhealth.consortium.research_study import ResearchStudy
from fedhealth.errors import ConfigError, PrivacyError, TrustError
from fedhealth.privacy.accounting.reservations import parse_cost
from fedhealth.privacy.accounting.study_claim import StudyRuns, claim_share
from fedhealth.protocol.study_answer import RefusalReason, StudyAnswer
from fedhealth.site.audit_log import AuditLog
from fedhealth.site.home import SiteHome
from fedhealth.site.job_history import find_ended_runs
from fedhealth.site.policy import Policy
from fedhealth.site.stored_studies import RefusedStudy
from fedhealth.site.study_shares import make_share, release_unapproved_shares
from fedhealth.site.study_store import GIVEN, StudyDecision, StudyStore
from fedhealth.site.study_verdict import StudyVerdict, compose_study

log = logging.getLogger("fedhealth.site")


def approve_study(
    study: ResearchStudy,
    verdict: StudyVerdict,
    home: SiteHome,
    policy: Policy,
    person: str | None = None,
    note: str = "",
) -> StudyDecision:
    """Approve a study as evaluated, and reserve its share of the budget; an interruption leaves nothing reserved.

    Args:
        study: known to this hospital.
        verdict: of `evaluate_study`, as shown to the person.
        home: the hospital's folder.
        policy: its policy.
        person: who approves; None for the user of this process.
        note: why; for this hospital.

    Raises:
        ConfigError: the study is closed, over or not for this hospital.
        PrivacyError: its share does not fit into the budget.

    """
    store = StudyStore(home)
    decision = StudyDecision(
        StudyAnswer.approved,
        person or _get_user(),
        time.time(),
        note=note,
        data=verdict.data,
        configuration=verdict.configuration,
        findings=verdict.findings,
        study=study.name,
        version=study.version,
        ledger=verdict.ledger,
        price=verdict.price,
    )
    with store.lock_decisions():
        _check_open(study, policy, store)
        _check_earlier(study, verdict, store)
        if verdict.ledger:
            _reserve(study, verdict, home, policy)
        _record_decision(study.digest, decision, home)
        _release_others(home)
    return decision


def decline_study(
    study: ResearchStudy, home: SiteHome, reason: RefusalReason, note: str = "", person: str | None = None
) -> StudyDecision:
    """Decline a version of a study; an approval of an earlier version stays.

    Args:
        study: known to this hospital.
        home: the hospital's folder.
        reason: for the lead.
        note: for this hospital.
        person: who declines; None for the user of this process.

    Raises:
        ConfigError: this version was approved.

    """
    store = StudyStore(home)
    decision = _refuse(study, StudyAnswer.declined, reason, note, person)
    with store.lock_decisions():
        before = store.load_decision(study.digest)
        if before is not None and before.answer in GIVEN:
            raise ConfigError(f"{study.label} was approved here.", f"Run `fedhealth site study withdraw {study.name}`.")
        _record_decision(study.digest, decision, home)
        _release_others(home)
    return decision


def withdraw_study(
    name: str, home: SiteHome, reason: RefusalReason, note: str = "", person: str | None = None
) -> list[ResearchStudy | RefusedStudy]:
    """Withdraw the approval of all versions of a study: no further request is answered, its share is given back.

    Args:
        name: of the study.
        home: the hospital's folder.
        reason: for the lead.
        note: for this hospital.
        person: who withdraws; None for the user of this process.

    Returns:
        The versions that were approved.

    Raises:
        ConfigError: no version of it is approved.
        PrivacyError: a ledger is damaged or in use; the withdrawal holds all the same.

    """
    store = StudyStore(home)
    with store.lock_decisions():
        versions = store.read_studies().list_versions(name)
        decisions = {each.digest: store.load_decision(each.digest) for each in versions}
        approved = [each for each in versions if (found := decisions[each.digest]) and found.answer in GIVEN]
        if not approved:
            raise ConfigError(f"No version of the study {name} is approved here.", "Nothing was withdrawn.")
        for each in reversed(approved):  # the newest first: if the log cannot be written, the one in force has ended
            _record_decision(each.digest, _refuse(each, StudyAnswer.withdrawn, reason, note, person), home)
        release_unapproved_shares(home)
    return approved


def _refuse(
    study: ResearchStudy | RefusedStudy, answer: StudyAnswer, reason: RefusalReason, note: str, person: str | None
) -> StudyDecision:
    return StudyDecision(
        answer, person or _get_user(), time.time(), reason, note, study=study.name, version=study.version
    )


def _reserve(study: ResearchStudy, verdict: StudyVerdict, home: SiteHome, policy: Policy) -> None:
    share = make_share(study)
    assert share is not None  # noqa: S101 - `_check_open` compared the two
    config: Any = OmegaConf.to_object(compose_study(study, policy))
    runs = StudyRuns(StudyStore(home).list_runs(study.name), find_ended_runs(home.state))
    claim_share(instantiate(config.privacy).budget, home.state, share, parse_cost(verdict.price), runs)


def _release_others(home: SiteHome) -> None:
    """Give back what no approval holds; in a ledger that is in use it is given back by the next decision or start."""
    try:
        release_unapproved_shares(home)
    except PrivacyError as fault:
        log.warning("%s", fault)


def _check_open(study: ResearchStudy, policy: Policy, store: StudyStore) -> None:
    if store.read_studies().is_closed(study.name) or date.today() > date.fromisoformat(study.last_day):
        raise ConfigError(f"{study.label} is over.", "Nothing was approved.")
    if policy.name not in study.members:
        raise ConfigError(f"{study.label} does not name {policy.name}.", "Ask the lead.")
    if study.epsilon is not None and study.delta > policy.limits.max_delta:
        raise ConfigError(f"{study.label} states delta {study.delta:g}, above limits.max_delta.", "Ask the lead.")
    if (study.epsilon is None) != (study.configuration["privacy"].get("epsilon") is None):
        raise ConfigError(f"{study.label} states another budget than its configuration.", "Ask the lead.")


def _check_earlier(study: ResearchStudy, verdict: StudyVerdict, store: StudyStore) -> None:
    """Refuse what another version's approval rules out: an earlier version, or a ledger that does not know its runs."""
    versions = store.read_studies().list_versions(study.name)
    given = [(each, store.load_decision(each.digest)) for each in versions]
    newer = [each for each, found in given if found and found.answer in GIVEN and each.version > study.version]
    if newer:
        raise ConfigError(f"{newer[-1].label} was approved here after {study.label}.", "Nothing was approved.")
    ledgers = {found.ledger for _, found in given if found and found.ledger} - {verdict.ledger}
    if verdict.ledger and ledgers and store.list_runs(study.name):
        raise ConfigError(
            f"Runs of the study {study.name} are booked for the data set {', '.join(sorted(ledgers))}.",
            f"Call it so again in site.yaml, not {verdict.ledger}; or ask the lead for a study of another name.",
        )


def _record_decision(digest: str, decision: StudyDecision, home: SiteHome) -> None:
    """Save and log a decision: an approval is logged before it counts, any other counts before it is logged."""
    told = {"study": decision.study, "version": decision.version, "digest": digest, "person": decision.person}
    allows = decision.answer is StudyAnswer.approved
    if not allows:
        StudyStore(home).save_decision(digest, decision)
    AuditLog(home.audit).write(f"study {decision.answer}", **told, data=decision.data)
    if allows:
        StudyStore(home).save_decision(digest, decision)


def _get_user() -> str:
    with suppress(OSError, KeyError):
        return getpass.getuser()
    raise TrustError("This machine does not know the user of this process.", "Say who approves with --by NAME.")
