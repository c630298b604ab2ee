"""Whether a run keeps to a study that this hospital's people approved: checked before any data are touched.

The sentences are for the hospital's own log. None of them is in the closed list of `decline_reasons`, so the lead gets
one neutral reason for all of them, whatever the hospital's data are.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from fedhealth.config.compose import compose_shared_settings
from fedhealth.config.open_paths import find_changes_outside
from fedhealth.config.override_allowlist import find_override_errors
from fedhealth.consortium.research_study import ResearchStudy
from fedhealth.consortium.signed_job import SignedJob
from fedhealth.errors import ConfigError, TrustError
from fedhealth.protocol.study_answer import StudyAnswer
from fedhealth.site.home import SiteHome
from fedhealth.site.policy import Policy
from fedhealth.site.stored_studies import RefusedStudy
from fedhealth.site.study_store import StudyDecision, StudyStore

NO_STUDY = "the run names no study, and limits.unattended_studies is false"
_SHOWN = 5
_ANSWERS = {
    StudyAnswer.declined: "{label} was declined here",
    StudyAnswer.withdrawn: "the approval of {label} was withdrawn here",
    StudyAnswer.suspended: "{label} was approved before this machine was restored from a backup: approve it again",
    StudyAnswer.outdated: "the data are not those that {label} was approved on: approve it again",
}


@dataclass(frozen=True)
class StudyTerms:
    """What a hospital says about the study of a run.

    Attributes:
        study: that the run names; None if it names none, or one that is not known here.
        decision: of the hospital's people; None if nobody has decided.
        reason: why the run is refused; empty if it is not.

    """

    study: ResearchStudy | None = None
    decision: StudyDecision | None = None
    reason: str = ""

    @property
    def approval(self) -> StudyDecision | None:
        """The approval; None where runs need none, and nobody has decided."""
        is_approved = self.decision is not None and self.decision.answer is StudyAnswer.approved
        return self.decision if is_approved else None


def read_study_terms(job: SignedJob, home: SiteHome, policy: Policy, now: float | None = None) -> StudyTerms:
    """Return what this hospital says about a run's study; no data are read and nothing is composed.

    Args:
        job: verified.
        home: the hospital's folder.
        policy: its current one.
        now: seconds since 1970; None for the clock's.

    """
    if not job.study:
        return StudyTerms(reason="" if policy.limits.unattended_studies else NO_STUDY)
    store = StudyStore(home)
    try:
        stored = store.read_studies()
        study = stored.studies.get(job.study)
        if study is None:
            refused = stored.find_refused(job.study)
            reason = refused.sentence if refused else f"the run's study {job.study[:12]} is not known here"
            return StudyTerms(reason=reason)
        decision = store.load_decision(job.study)
        versions = stored.list_versions(study.name)
        newer = [each for each in versions if each.version > study.version and store.was_approved(each.digest)]
        has_twin = any(each.version == study.version and each.digest != job.study for each in versions)
        is_closed = stored.is_closed(study.name)
    except TrustError as fault:
        return StudyTerms(reason=fault.problem)
    today = date.fromtimestamp(time.time() if now is None else now)
    told = f"{study.label} is stored here with two contents: ask the lead for a new version" if has_twin else ""
    told = f"the lead has closed the study {study.name}" if is_closed else told
    reason = told or _find_refusal(study, decision, newer, policy, today)
    return StudyTerms(study, decision, reason)


def _find_refusal(
    study: ResearchStudy,
    decision: StudyDecision | None,
    newer: Sequence[ResearchStudy | RefusedStudy],
    policy: Policy,
    today: date,
) -> str:
    label = study.label
    if newer:
        return f"{label} is replaced here by version {newer[-1].version}"
    if policy.name not in study.members:
        return f"{label} does not name this hospital"
    if decision is None and not policy.limits.unattended_studies:
        return f"nobody has decided on {label}: `fedhealth site study show {study.name}`"
    if decision is not None and decision.answer in _ANSWERS:
        return _ANSWERS[decision.answer].format(label=label)
    if today < date.fromisoformat(study.first_day):
        return f"{label} has not begun: its first day is {study.first_day}"
    if today > date.fromisoformat(study.last_day):
        return f"{label} is over: its last day was {study.last_day}"
    return ""


def find_study_change(study: ResearchStudy, overrides: Sequence[str], policy: Policy) -> str:
    """Return how a run leaves what its study holds; empty if it keeps to it. No data are read.

    Args:
        study: approved, or allowed by `limits.unattended_studies`.
        overrides: of the run.
        policy: the site's, whose folder of further options counts.

    """
    if find_override_errors(overrides, policy.conf):
        return f"the run's overrides are not those of a run of {study.label}"
    try:
        found = compose_shared_settings(overrides, policy.conf)
    except ConfigError:
        return f"the run's overrides do not compose, as those of {study.label} did"
    changed = find_changes_outside(study.configuration, found, study.open)
    if not changed:
        return ""
    if drifted := find_release_changes(study, policy):
        return f"this release or its conf folder composes another configuration than {study.label} holds: {drifted}"
    return f"the run sets {_list_paths(changed)}, which {study.label} does not leave open"


def find_release_changes(study: ResearchStudy, policy: Policy) -> str:
    """Return the settings that the installed release composes differently than the study holds them; empty if none."""
    if find_override_errors(study.overrides, policy.conf):
        return "an override is not accepted here"
    try:
        own = compose_shared_settings(study.overrides, policy.conf)
    except ConfigError as fault:
        return fault.problem
    return _list_paths(find_changes_outside(study.configuration, own, ()))


def _list_paths(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
    return ", ".join(paths[:_SHOWN]) + more
