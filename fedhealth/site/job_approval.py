"""Approve or decline a signed job: check its overrides, compose them with the site's own last, compare with the policy.

The lead's configuration is never changed here: if it asks for more than the policy allows, the site declines and names
the limit. The site's own overrides (files, ledger, device, budget) cannot change what is trained.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from fedhealth.config.compose_once import compose_once
from fedhealth.config.instantiate import instantiate
from fedhealth.config.override_allowlist import find_override_errors
from fedhealth.config.quoting import quote_value
from fedhealth.config.schema import Config
from fedhealth.consortium.membership import Membership
from fedhealth.consortium.signed_job import SignedJob
from fedhealth.errors import ConfigError, SecureAggregationError
from fedhealth.protocol.job import Job, compose_job_config
from fedhealth.secagg.protocol.threshold import ThresholdPolicy, compute_thresholds
from fedhealth.site import decline_reasons
from fedhealth.site.decline_reasons import format_reason
from fedhealth.site.home import SiteHome
from fedhealth.site.policy import DataSource, Policy

if TYPE_CHECKING:  # the trainers take seconds to import
    from fedhealth.training.trainer import Trainer


COUNT_FAULTS = "data.faulty_cells=missing"
"""The override by which a hospital counts cells outside the description instead of failing because of one."""

_THRESHOLDS = {  # of secure aggregation: the job's own and the site's; of two, the stricter holds
    "colluders": decline_reasons.TOO_FEW_COLLUDERS,
    "min_honest": decline_reasons.TOO_FEW_HONEST_SITES,
    "min_sites": decline_reasons.TOO_FEW_SITES_IN_SUM,
}


@dataclass(frozen=True)
class ApprovalDecision:
    """A site's decision on a signed job.

    Attributes:
        jobs: the approved job, or for a sweep the jobs to reserve budget for; empty if declined.
        reasons: why it is declined; empty if approved.

    """

    jobs: tuple[Job, ...]
    reasons: tuple[str, ...] = ()


def review_job(signed: SignedJob, policy: Policy, membership: Membership, home: SiteHome) -> ApprovalDecision:
    """Approve or decline a verified job.

    Args:
        signed: the job, signed by the lead for these members.
        policy: the site's current policy.
        membership: the approved members.
        home: the hospital's folder.

    """
    if faults := find_override_errors(signed.overrides, policy.conf):
        named = [fault.rpartition(": ")[0].strip("'\"").partition("=")[0] for fault in faults]
        return ApprovalDecision((), tuple(format_reason(decline_reasons.OVERRIDE_NOT_ACCEPTED, name) for name in named))
    try:
        composed, chosen = compose_once(signed.overrides, policy.conf)
        name = str(composed.data.name)
        source = policy.data.get(name)
        if source is None:
            return ApprovalDecision((), (format_reason(decline_reasons.NO_SUCH_DATA, name),))
        own = (*make_site_overrides(policy, source, signed.overrides), COUNT_FAULTS)
        overrides = (*signed.overrides, *own)
        job = Job(signed.run, overrides, signed.digest, str(home.get_run_folder(signed.run)), str(policy.conf or ""))
        config = compose_job_config(job)
    except ConfigError as fault:
        is_mismatch = "has digest" in fault.problem
        reason = decline_reasons.CONFIG_MISMATCH if is_mismatch else decline_reasons.OVERRIDES_DO_NOT_COMPOSE
        return ApprovalDecision((), (reason,))
    reasons = (*_find_order_violations(signed, policy), *_find_violations(config, chosen, policy, membership))
    return ApprovalDecision(() if reasons else (job,), reasons)


def review_sweep(signed: SignedJob, policy: Policy, membership: Membership, home: SiteHome) -> ApprovalDecision:
    """Approve or decline all runs of a sweep, as listed in the budget request of a verified job."""
    planned_jobs = [
        replace(signed, run=planned.run, overrides=planned.overrides, digest=planned.digest, budget_request=None)
        for planned in (signed.budget_request.runs if signed.budget_request else ())
    ]
    decisions = [review_job(each, policy, membership, home) for each in planned_jobs]
    reasons = tuple(dict.fromkeys(reason for each in decisions for reason in each.reasons))
    return ApprovalDecision(() if reasons else tuple(job for each in decisions for job in each.jobs), reasons)


def find_private_datasets(job: SignedJob, policy: Policy) -> set[str]:
    """Return the names of the ledgers of all data sets that the private runs of a verified job may touch."""
    asked = [job.overrides, *(planned.overrides for planned in (job.budget_request.runs if job.budget_request else ()))]
    found = set()
    for overrides in asked:
        with suppress(ConfigError):  # such a run is declined before it touches data
            config, chosen = compose_once(overrides, policy.conf)
            name = str(config.data.name)
            if chosen.get("privacy") != "none" and name in policy.data:
                found.add(policy.data[name].dataset)
    return found


def make_site_overrides(policy: Policy, source: DataSource, overrides: Sequence[str]) -> Iterator[str]:
    """Yield the site's own overrides, which come last: files, device, ledger and limits."""
    yield f"data.root={quote_value(source.root.absolute())}"
    yield f"data.manifest={quote_value(source.manifest)}"
    yield f"data/source={'ingested' if source.ingested else 'files'}"
    yield f"data.site_column={_quote_or_null(source.site_column)}"
    if source.cache:
        yield f"data.cache={quote_value(source.cache.absolute())}"
    yield f"data.public.root={_quote_or_null(source.public and source.public.absolute())}"
    for column, name in source.columns.items():
        yield f"data.columns.{column}={_quote_or_null(name)}"
    yield f"training.device={policy.resources.device}"
    yield f"training.threads={policy.resources.threads}"
    yield f"training.memory_gb={policy.resources.memory_gb}"
    limits = policy.limits
    own = {
        "dataset": quote_value(source.dataset),
        "max_epsilon": limits.epsilon,
        "lifetime_epsilon": limits.lifetime_epsilon,
        "max_local_epsilon": "null" if limits.local_epsilon is None else limits.local_epsilon,
        "lifetime_local_epsilon": limits.lifetime_local_epsilon or limits.lifetime_epsilon,
        "min_noise_multiplier": limits.min_noise_multiplier,
        "min_cohort": limits.min_patients,
        "lifetime_delta": limits.delta,
        "max_failures": "null" if limits.max_failures is None else limits.max_failures,
    }
    known = compose_once(overrides, policy.conf)[0].privacy
    yield from (f"privacy.{key}={value}" for key, value in own.items() if key in known)


def _quote_or_null(value: object) -> str:
    return "null" if value is None else quote_value(value)


def _find_order_violations(signed: SignedJob, policy: Policy) -> Iterator[str]:
    """Yield a reason if the job is valid for longer than a run may take: it could be replayed for as long."""
    hours = (signed.expires - signed.issued) / 3600
    if hours > policy.limits.hours:
        yield format_reason(decline_reasons.ORDER_TOO_LONG, f"{hours:.6g}", f"{policy.limits.hours:.6g}")


def _find_violations(config: Config, chosen: dict[str, str], policy: Policy, membership: Membership) -> Iterator[str]:
    """Yield a reason for every limit of the policy that the configuration exceeds."""
    limits, members = policy.limits, {member.site for member in membership.members}
    if policy.name not in config.data.sites:
        yield format_reason(decline_reasons.SITE_NOT_IN_RUN, policy.name)
    if not members.issuperset(config.data.sites):
        yield decline_reasons.UNAPPROVED_SITES
    trainer: Trainer = instantiate(config.privacy)
    if trainer.unit not in limits.units:
        yield format_reason(decline_reasons.PRIVACY_UNIT_NOT_ALLOWED, trainer.unit, ", ".join(limits.units))
    if trainer.shares_noise and limits.local_epsilon is None:
        yield decline_reasons.SHARED_NOISE_NOT_ALLOWED
    if not trainer.delta <= limits.max_delta:
        yield format_reason(decline_reasons.DELTA_ABOVE_LIMIT, trainer.delta, limits.max_delta)
    yield from _find_aggregation_violations(config, policy, len(members))
    for group, option in chosen.items():
        allowed = limits.models if group.partition("/")[0] == "model" else None
        allowed = limits.personalizations if group == "personalization" else allowed
        if allowed is not None and option not in allowed:
            yield format_reason(decline_reasons.OPTION_NOT_ALLOWED, group, option)


def _find_aggregation_violations(config: Config, policy: Policy, approved: int) -> Iterator[str]:
    """Yield a reason for every setting of secure aggregation that is weaker than this site's, for so many members."""
    limits = policy.limits
    if instantiate(config.secagg["site"]).is_plaintext:
        if limits.secure_aggregation:
            yield decline_reasons.SECURE_AGGREGATION_REQUIRED
        return
    words = {name: _get_value(config.secagg, name) for name in _THRESHOLDS}
    if any(type(word) is not int for word in words.values() if word is not None):
        yield decline_reasons.OVERRIDES_DO_NOT_COMPOSE
        return
    asked = ThresholdPolicy(**words | {"min_sites": words["min_sites"] or 0}).resolve(approved)
    own = ThresholdPolicy(limits.colluders, limits.min_honest, limits.min_sites).resolve(approved)
    for name, template in _THRESHOLDS.items():
        if getattr(asked, name) < getattr(own, name):
            yield format_reason(template, getattr(asked, name), getattr(own, name))
    try:
        compute_thresholds(len(config.data.sites), asked.combine(own, approved), approved)
    except SecureAggregationError:
        yield format_reason(decline_reasons.TOO_FEW_MEMBERS, len(config.data.sites))
    if _get_value(config.secagg, "weights") == "exact" and not limits.exact_weights:
        yield decline_reasons.EXACT_WEIGHTS_NOT_ALLOWED


def _get_value(node: Any, key: str) -> Any:
    """Return a value of an untyped node of the configuration; None if it has no such key."""
    values = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
    return values.get(key) if isinstance(values, dict) else None
