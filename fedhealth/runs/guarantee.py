"""A run's privacy guarantee: epsilon together with its delta, noise multiplier and unit, promised or spent."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fedhealth.runs.record import RunRecord

_NUMBERS = ("delta", "noise_multiplier")


@dataclass(frozen=True)
class PrivacyGuarantee:
    """An epsilon and what gives it its meaning; delta and noise multiplier are NaN if each site chooses its own.

    Attributes:
        unit: whom it protects: `patient`, `record` or `client`.
        epsilon: the most that was spent, or may be spent.
        delta: at which epsilon is measured.
        noise_multiplier: of the training; the smallest, if sites differ.

    """

    unit: str
    epsilon: float
    delta: float
    noise_multiplier: float


def get_promised_guarantee(run: RunRecord) -> PrivacyGuarantee | None:
    """Return what the configuration promises; None without an epsilon."""
    promised = read_guarantee(run.get_setting("privacy") or {})
    if promised is None or not run.spending:
        return promised
    delta = max(each.delta for each in run.spending) if math.isnan(promised.delta) else promised.delta
    noise_multiplier = min(each.noise_multiplier for each in run.spending)
    return replace(promised, delta=delta, noise_multiplier=noise_multiplier)


def read_guarantee(privacy: Mapping[str, Any]) -> PrivacyGuarantee | None:
    """Return what the section `privacy` of a configuration promises; None without an epsilon."""
    if privacy.get("epsilon") is None:
        return None
    delta, least = (math.nan if privacy.get(key) is None else float(privacy[key]) for key in _NUMBERS)
    return PrivacyGuarantee(str(privacy.get("unit") or "client"), float(privacy["epsilon"]), delta, least)


def sum_guarantees(guarantees: Sequence[PrivacyGuarantee]) -> list[PrivacyGuarantee]:
    """Return what several runs promise together, one guarantee for each unit: epsilons and deltas add up."""
    by_unit: dict[str, list[PrivacyGuarantee]] = {}
    for each in guarantees:
        by_unit.setdefault(each.unit, []).append(each)
    return [
        PrivacyGuarantee(
            unit,
            sum(each.epsilon for each in parts),
            sum(each.delta for each in parts),
            min(each.noise_multiplier for each in parts),
        )
        for unit, parts in by_unit.items()
    ]


def get_spent_guarantee(run: RunRecord) -> PrivacyGuarantee | None:
    """Return the largest epsilon that a site spent; None where no ledger is known."""
    if not run.spending:
        return None
    most = max(run.spending, key=lambda each: each.epsilon)
    return PrivacyGuarantee(most.unit, most.epsilon, most.delta, most.noise_multiplier)


@dataclass(frozen=True)
class SharedNoiseTrust:
    """What a promise with shared noise rests on.

    Attributes:
        sites: hospitals of the run.
        colluders: how many of them may work with the lead.
        local_epsilon: the most that a hospital spent if all others colluded; None where no ledger is known.
        delta: at which it is measured.

    """

    sites: int
    colluders: int
    local_epsilon: float | None
    delta: float


def get_shared_noise_trust(run: RunRecord) -> SharedNoiseTrust | None:
    """Return what the promise rests on; None if every hospital adds all noise itself."""
    if run.get_setting("privacy.noise") != "shared":
        return None
    sites, colluders = len(run.get_setting("data.sites") or ()), run.get_setting("secagg.colluders")
    shared = [each for each in run.spending if each.shares > 1]
    if not shared:
        return SharedNoiseTrust(sites, (sites - 1) // 3 if colluders is None else int(colluders), None, math.nan)
    most = max(shared, key=lambda each: each.local_epsilon)
    return SharedNoiseTrust(sites, sites - most.shares, most.local_epsilon, most.delta)


def count_spare_rounds(run: RunRecord) -> int:
    """Return the number of rounds beyond the planned ones that the noise is calibrated for."""
    return int(run.get_setting("privacy.spare_rounds") or 0)


def count_planned_bookings(run: RunRecord) -> int:
    """Return how many events a site may book: one for each planned and spare round, and one for the final scores."""
    rounds = int(run.get_setting("strategy.rounds") or run.completed_rounds)
    return rounds + count_spare_rounds(run) + bool(run.get_setting("privacy.score_release_share"))
