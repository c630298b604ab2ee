"""The numbers of a private run, computed anew for an audit: rate, batch, steps, and epsilon by another accountant.

Nothing here is taken from the plan or the accountant under audit. Epsilon is that of Opacus's PRV (Gopi et al., NeurIPS
2021), or of the Gaussian mechanism where nothing is sampled (Balle and Wang, ICML 2018).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

import numpy as np
from opacus.accountants import PRVAccountant
from scipy.stats import norm

from fedhealth.privacy.accounting.plan import PrivacyPlan
from fedhealth.privacy.auditing.release_checks import AuditCheck, check_fact
from fedhealth.utils.privacy_text import format_epsilon

_PRV_ERROR = 0.004  # of the target
_TOLERANCE = 1.012  # what PRV's bound may be above the target: twice its error, and the accountants' difference
_AUTOMATIC = 0.01  # added to the norm by automatic clipping (Bu et al., NeurIPS 2023)

Events = Sequence[tuple[float, float, int]]
"""(noise multiplier, sample rate, steps) of each event."""


def compute_sample_rate(units: int, batch_size: int) -> float:
    """Return the public rate of a cohort: the batch size over the cohort rounded down to a power of sqrt 2."""
    return min(1.0, batch_size / _round_cohort(units))


def compute_expected_batch(units: int, sample_rate: float) -> float:
    """Return the fixed divisor of every noised sum."""
    return max(1.0, sample_rate * _round_cohort(units))


def is_within_target(events: Events, target: float, delta: float) -> bool:
    """Return whether events together stay within a target epsilon, by another accountant."""
    if all(rate == 1 for _, rate, _ in events):
        mu = math.sqrt(sum(steps / noise**2 for noise, _, steps in events))
        left = norm.cdf(mu / 2 - target / mu) - math.exp(target + norm.logcdf(-mu / 2 - target / mu))
        return bool(left <= delta * (1 + 1e-6))
    return _compute_prv_epsilon(tuple(events), delta, _PRV_ERROR * target) <= _TOLERANCE * target


@lru_cache(maxsize=32)
def _compute_prv_epsilon(events: tuple[tuple[float, float, int], ...], delta: float, error: float) -> float:
    """Return epsilon by Opacus; a pure function of numbers, so an audit of the same plan need not repeat it."""
    reference = PRVAccountant()
    reference.history = list(events)
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(reference.get_epsilon(delta, eps_error=error, delta_error=delta / 1000))


def check_plan(plan: PrivacyPlan, target: float, delta: float, sample_rate: float, steps: int) -> Iterator[AuditCheck]:
    """Check a plan's rate, steps and epsilon.

    Args:
        plan: of the whole run.
        target: epsilon that the run promises.
        delta: of the promise.
        sample_rate: that the settings ask for.
        steps: of the whole run, spare rounds included.

    """
    planned = plan.steps * (plan.rounds + plan.spare_rounds)
    right = (plan.sample_rate, planned, plan.delta) == (sample_rate, steps, delta)
    shown = f"rate {plan.sample_rate:.4f} and {planned} steps, expected {sample_rate:.4f} and {steps}"
    yield check_fact("the plan has the rate and the steps of the settings", right, shown)
    events = [(plan.noise_multiplier, sample_rate, steps)]
    if (event := plan.score_release_event) is not None:
        events.append((event.noise_multiplier, 1.0, 1))
    within = is_within_target(events, target, delta)
    yield check_fact(
        "the noise keeps the whole run within its epsilon", within, f"{format_epsilon(target, delta)} by PRV"
    )


def clip_gradient(
    gradient: Mapping[str, np.ndarray], mode: str, max_grad_norm: float, towers: Sequence[str]
) -> dict[str, np.ndarray]:
    """Return one patient's gradient, by tensor [n], as the rule of the configuration clips it."""
    prefixes = [f"towers.{name}." for name in towers] if mode == "tower" else []
    group = {name: next((p for p in prefixes if name.startswith(p)), "") for name in gradient}
    factors = {}
    for prefix in set(group.values()):
        length = math.sqrt(sum(float(part @ part) for name, part in gradient.items() if group[name] == prefix))
        share = max_grad_norm / math.sqrt(len(prefixes) + 1)
        factors[prefix] = share / (length + _AUTOMATIC) if mode == "automatic" else min(1.0, share / max(length, 1e-30))
    return {name: part * factors[group[name]] for name, part in gradient.items()}


def _round_cohort(units: int) -> int:
    return math.floor(2 ** (math.floor(2 * math.log2(units) + 1e-9) / 2) + 1e-9)
