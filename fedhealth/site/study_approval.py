"""A hospital's people decide on a study: the data contract is evaluated once, on their own data, and shown to them.

What the evaluation shows is for the hospital only. The stored verdict and the digest of the data are all that later
requests are compared with.
"""

from __future__ import annotations

import getpass
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime
from datetime import time as clock_time
from typing import Any

from omegaconf import OmegaConf

from fedhealth.config.compose import compose_config, compute_config_digest
from fedhealth.config.instantiate import instantiate
from fedhealth.config.schema import Config
from fedhealth.consortium.research_study import ResearchStudy
from fedhealth.data.dataset import compute_dataset_digest, prepare_dataset
from fedhealth.errors import ConfigError, TrustError
from fedhealth.models.weights import find_other_weights
from fedhealth.privacy.accounting.study_share import StudyShare, release_share, reserve_share
from fedhealth.protocol.study_answer import RefusalReason, StudyAnswer
from fedhealth.site.audit_log import AuditLog
from fedhealth.site.home import SiteHome
from fedhealth.site.job_approval import COUNT_FAULTS, make_site_overrides
from fedhealth.site.policy import Policy
from fedhealth.site.study_store import StudyDecision, StudyStore
from fedhealth.site.study_terms import find_release_changes
from fedhealth.statistics.workload import measure_workload

_GIVEN = (StudyAnswer.approved, StudyAnswer.suspended, StudyAnswer.outdated)  # approvals, with their share reserved


@dataclass(frozen=True)
class StudyVerdict:
    """What the evaluation of a study on a hospital's own data shows.

    Attributes:
        size: of the cohort, in words.
        findings: what the hospital's people must know of their data.
        data: the digest of the data.
        configuration: the digest of the resolved configuration here.
        epsilon: of all runs, of which the share is reserved at approval; None without differential privacy.

    """

    size: str
    findings: tuple[str, ...]
    data: str
    configuration: str
    epsilon: float | None


def evaluate_study(study: ResearchStudy, policy: Policy) -> StudyVerdict:
    """Evaluate a study's data contract on this hospital's own data; nothing leaves and nothing is reserved.

    Raises:
        ConfigError: the installed release composes another configuration, site.yaml offers no such data, or pretrained
            weights are not those of the study.
        DataError: the data cannot be used at all; it names the place.
        PrivacyError: its privacy target cannot be met within the policy.

    """
    config, digest = _compose_study(study, policy)
    if names := find_other_weights(study.weights, policy.resources.weights):
        raise ConfigError(
            f"The weights {', '.join(names)} in resources.weights are missing, or not those of {study.label}.",
            "Ask the lead for the files.",
        )
    cohort = prepare_dataset(config.data, policy.name)
    counts = cohort.counts()
    size = ", ".join(f"{counts[key]} {key}" for key in ("patients", "rows", "image", "text", "tabular", "unlabelled"))
    findings = [each.text for each in cohort.findings]
    findings += [f"rejected image: {each.reason}" for each in cohort.rejected]
    epsilon = study.epsilon if instantiate(config.privacy).is_private else None
    return StudyVerdict(size, tuple(findings), compute_dataset_digest(config.data, policy.name), digest, epsilon)


def approve_study(
    study: ResearchStudy,
    verdict: StudyVerdict,
    home: SiteHome,
    policy: Policy,
    person: str | None = None,
    note: str = "",
) -> StudyDecision:
    """Approve a study as evaluated, and reserve its share of the budget.

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
    _check_open(study, policy, [each for each in store.load_studies().values() if each.name == study.name])
    if verdict.epsilon is not None:
        _reserve(study, home, policy, store)
    else:
        release_share(home.state, study.name)  # of an earlier version with differential privacy
    decision = StudyDecision(
        StudyAnswer.approved,
        person or _get_user(),
        time.time(),
        note=note,
        data=verdict.data,
        configuration=verdict.configuration,
        findings=verdict.findings,
    )
    _record_decision(study, decision, home)
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
    before = StudyStore(home).load_decision(study.digest)
    if before is not None and before.answer in _GIVEN:
        raise ConfigError(f"{study.label} was approved here.", f"Run `fedhealth site study withdraw {study.name}`.")
    decision = StudyDecision(StudyAnswer.declined, person or _get_user(), time.time(), reason, note)
    _record_decision(study, decision, home)
    return decision


def withdraw_study(
    name: str, home: SiteHome, reason: RefusalReason, note: str = "", person: str | None = None
) -> list[ResearchStudy]:
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
    versions = [each for each in store.load_studies().values() if each.name == name]
    decisions = {each.digest: store.load_decision(each.digest) for each in versions}
    approved = [each for each in versions if (found := decisions[each.digest]) and found.answer in _GIVEN]
    if not approved:
        raise ConfigError(f"No version of the study {name} is approved here.", "Nothing was withdrawn.")
    decision = StudyDecision(StudyAnswer.withdrawn, person or _get_user(), time.time(), reason, note)
    for each in approved:
        _record_decision(each, decision, home)
    release_share(home.state, name)
    return approved


def make_share(study: ResearchStudy) -> StudyShare:
    """Return what the runs of a study with differential privacy may spend."""
    after = datetime.combine(date.fromisoformat(study.last_day), clock_time.max)
    return StudyShare(study.name, study.runs, study.epsilon or 0.0, study.delta, after.timestamp())


def _compose_study(study: ResearchStudy, policy: Policy) -> tuple[Config, str]:
    """Return a study's configuration with the site's own overrides last, and its digest."""
    if changes := find_release_changes(study, policy):
        raise ConfigError(
            f"The installed release or conf folder composes another configuration than {study.label}: {changes}.",
            "Install the release that the lead uses, or ask for a study of this release.",
        )
    source = policy.data.get(str(study.configuration["data"]["name"]))
    if source is None:
        raise ConfigError(
            f"site.yaml offers no data called {study.configuration['data']['name']!r}.", "Add it to `data`."
        )
    overrides = [*study.overrides, *make_site_overrides(policy, source, study.overrides), COUNT_FAULTS]
    composed = compose_config(overrides, policy.conf)
    config: Any = OmegaConf.to_object(composed)
    assert isinstance(config, Config)  # noqa: S101 - the schema's root
    return config, compute_config_digest(composed)


def _reserve(study: ResearchStudy, home: SiteHome, policy: Policy, store: StudyStore) -> None:
    config, _ = _compose_study(study, policy)
    planned = instantiate(config.privacy).plan_run(
        measure_workload(config, prepare_dataset(config.data, policy.name)), config.training, config.strategy.rounds
    )
    budget, plan = planned
    reserve_share(budget, home.state, make_share(study), store.list_runs(study.name), plan)


def _check_open(study: ResearchStudy, policy: Policy, versions: Sequence[ResearchStudy]) -> None:
    if any(each.closed for each in versions) or date.today() > date.fromisoformat(study.last_day):
        raise ConfigError(f"{study.label} is over.", "Nothing was approved.")
    if policy.name not in study.members:
        raise ConfigError(f"{study.label} does not name {policy.name}.", "Ask the lead.")
    if study.epsilon is not None and study.delta > policy.limits.max_delta:
        raise ConfigError(f"{study.label} states delta {study.delta:g}, above limits.max_delta.", "Ask the lead.")
    if (study.epsilon is None) != (study.configuration["privacy"].get("epsilon") is None):
        raise ConfigError(f"{study.label} states another budget than its configuration.", "Ask the lead.")


def _record_decision(study: ResearchStudy, decision: StudyDecision, home: SiteHome) -> None:
    StudyStore(home).save_decision(study.digest, decision)
    told = {"study": study.name, "version": study.version, "digest": study.digest, "person": decision.person}
    AuditLog(home.audit).write(f"study {decision.answer}", **told, data=decision.data)


def _get_user() -> str:
    with suppress(OSError, KeyError):
        return getpass.getuser()
    raise TrustError("This machine does not know the user of this process.", "Say who approves with --by NAME.")
