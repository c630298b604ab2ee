"""What a site makes of an order: its words screened, composed with the site's own policy last, and held to its limits.

The lead's configuration is never edited here: where it asks for more than the policy allows, the site declines and
says which limit. What the policy decides by itself (files, ledger, device, budget) cannot change what is trained.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from fedhealth.config.compose import choices, compose, quoted
from fedhealth.config.instantiate import instantiate
from fedhealth.config.override_allowlist import screen
from fedhealth.config.schema import Config
from fedhealth.consortium.membership import Membership
from fedhealth.consortium.signed_job import Order
from fedhealth.errors import ConfigError
from fedhealth.protocol.job import Job, config_of
from fedhealth.site import decline_reasons
from fedhealth.site.decline_reasons import say
from fedhealth.site.home import SiteHome
from fedhealth.site.policy import Policy, Source


@dataclass(frozen=True)
class Consent:
    """A site's decision on an order: the job to work on (of a sweep, those to reserve for), or the reasons why not."""

    jobs: tuple[Job, ...]
    reasons: tuple[str, ...] = ()


def consider(order: Order, policy: Policy, membership: Membership, home: SiteHome) -> Consent:
    """Decide on a verified order.

    Args:
        order: signed by the lead, for these members.
        policy: the hospital's, as it is now.
        membership: the approved members.
        home: the hospital's.

    """
    if faults := screen(order.words, policy.conf):
        named = [fault.rpartition(": ")[0].strip("'\"").partition("=")[0] for fault in faults]
        return Consent((), tuple(say(decline_reasons.WORD, name) for name in named))
    try:
        name, chosen = _composed(order.words, policy.conf)
        source = policy.data.get(name)
        if source is None:
            return Consent((), (say(decline_reasons.NO_SOURCE, name),))
        words = (*order.words, *own_words(policy, source, order.words))
        job = Job(order.run, words, order.digest, str(home.arrays(order.run)), str(policy.conf or ""))
        config = config_of(job)
    except ConfigError as fault:
        differs = "has digest" in fault.problem
        return Consent((), (decline_reasons.DIFFERS if differs else decline_reasons.COMPOSE,))
    found = tuple(_objections(config, chosen, policy, membership))
    return Consent(() if found else (job,), found)


def consider_sweep(order: Order, policy: Policy, membership: Membership, home: SiteHome) -> Consent:
    """Decide on the runs that a verified order's statement says are to come."""
    asked = [
        replace(order, run=planned.run, words=planned.words, digest=planned.digest, statement=None)
        for planned in (order.statement.runs if order.statement else ())
    ]
    decided = [consider(each, policy, membership, home) for each in asked]
    found = tuple(dict.fromkeys(reason for each in decided for reason in each.reasons))
    return Consent(() if found else tuple(job for each in decided for job in each.jobs), found)


@lru_cache(maxsize=16)
def _composed(words: tuple[str, ...], conf: Path | None) -> tuple[str, dict[str, str]]:
    """Return the name of the data and the chosen options of screened words."""
    return str(compose(words, conf).data.name), choices(words, conf)


def own_words(policy: Policy, source: Source, words: Sequence[str]) -> Iterator[str]:
    """Yield what the site decides by itself, as override words."""
    yield f"data.root={quoted(source.root.absolute())}"
    yield f"data.manifest={quoted(source.manifest)}"
    yield f"data/source={'ingested' if source.ingested else 'files'}"
    yield f"data.site_column={_text(source.site_column)}"
    if source.cache:
        yield f"data.cache={quoted(source.cache.absolute())}"
    yield f"data.public.root={_text(source.public and source.public.absolute())}"
    for column, name in source.columns.items():
        yield f"data.columns.{column}={_text(name)}"
    yield f"training.device={policy.resources.device}"
    yield f"training.threads={policy.resources.threads}"
    limits = policy.limits
    own = {
        "dataset": quoted(source.dataset),
        "max_epsilon": limits.epsilon,
        "life_epsilon": limits.life_epsilon,
        "min_sigma": limits.min_sigma,
        "min_cohort": limits.min_patients,
    }
    known = compose(words, policy.conf).privacy
    yield from (f"privacy.{key}={value}" for key, value in own.items() if key in known)


def _text(value: object) -> str:
    return "null" if value is None else quoted(value)


def _objections(config: Config, chosen: dict[str, str], policy: Policy, membership: Membership) -> Iterator[str]:
    """Yield every limit of the policy that the configuration does not keep."""
    limits, members = policy.limits, {member.site for member in membership.members}
    if policy.name not in config.data.sites:
        yield say(decline_reasons.NOT_MEMBER, policy.name)
    if not members.issuperset(config.data.sites):
        yield decline_reasons.STRANGERS
    unit = instantiate(config.privacy).unit
    if unit not in limits.units:
        yield say(decline_reasons.UNIT, unit, ", ".join(limits.units))
    delta = _value(config.privacy, "delta")
    if delta is not None and not delta <= limits.max_delta:
        yield say(decline_reasons.DELTA, delta, limits.max_delta)
    yield from _sum_objections(config, policy)
    for group, option in chosen.items():
        allowed = limits.models if group.partition("/")[0] == "model" else None
        allowed = limits.personalizations if group == "personalization" else allowed
        if allowed is not None and option not in allowed:
            yield say(decline_reasons.OPTION, group, option)


def _sum_objections(config: Config, policy: Policy) -> Iterator[str]:
    limits, alone = policy.limits, instantiate(config.secagg["site"]).alone
    if alone:
        if limits.secure_aggregation:
            yield decline_reasons.NO_SECAGG
        return
    smallest = int(_value(config.secagg, "min_sites") or 1)
    if smallest < limits.min_sites:
        yield say(decline_reasons.SUM, smallest, limits.min_sites)
    if _value(config.secagg, "weights") == "exact" and not limits.exact_weights:
        yield decline_reasons.WEIGHTS


def _value(node: Any, key: str) -> Any:
    """Return a value of a free node of the configuration, None where there is none."""
    found = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
    return found.get(key) if isinstance(found, dict) else None
