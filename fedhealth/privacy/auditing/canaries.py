"""Statistical audits: an empirical lower bound on epsilon, to compare with the claimed epsilon.

One-run audit (Steinke, Nasr and Jagielski, "Privacy auditing with one (1) training run", NeurIPS 2023): many canaries,
each a patient of its own, are included or not by a fair coin; after one run the auditor guesses which, and abstains
if unsure. Here every canary owns one row of an embedding table, so their gradients are orthogonal by construction,
larger than the bound, and pass through the sampler, the engine, the optimizer and the noise like any patient.

Membership test (Yeom et al., CSF 2018): the loss of members against that of non-members under one threshold.
"""

import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedhealth.errors import PrivacyError
from fedhealth.privacy.accounting.plan import PrivacyPlan
from fedhealth.privacy.engines.book_keeping import BookKeepingEngine
from fedhealth.privacy.engines.dp_optimizer import NoisyOptimizer
from fedhealth.privacy.engines.self_check import EngineFactory
from fedhealth.privacy.engines.step import TrainStep, take_private_step
from fedhealth.privacy.mechanisms.gaussian_noise import NoiseSource
from fedhealth.privacy.mechanisms.poisson_sampler import PatientSampler
from fedhealth.utils.privacy_text import format_guarantee

# Shares of the canaries that are guessed; the confidence is divided among them.
_GUESSED = (0.5, 0.2, 0.06)


@dataclass(frozen=True)
class EpsilonLowerBound:
    """The result of a statistical audit.

    Attributes:
        plan: that claims its epsilon at its delta.
        found: epsilon is at least this at the same delta, with the confidence.
        confidence: of `found`.

    """

    plan: PrivacyPlan
    found: float
    confidence: float

    @property
    def is_consistent(self) -> bool:
        """Whether the bound is compatible with the claim."""
        return self.found <= self.plan.epsilon

    def __str__(self) -> str:
        found = f"empirical lower bound {self.found:.2g} ({100 * self.confidence:.0f} %)"
        claimed = format_guarantee(self.plan.epsilon, self.plan.delta, self.plan.noise_multiplier, self.plan.unit)
        return f"claimed {claimed}; {found}"


def _compute_canary_losses(table: nn.Module, batch: Tensor) -> Tensor:
    """Return losses whose gradient is one table entry per row, far above any bound."""
    entries: Tensor = table(batch)
    return -1e4 * entries.sum(1)


def run_canary_audit(
    plan: PrivacyPlan,
    *,
    make_engine: EngineFactory = BookKeepingEngine,
    step: TrainStep = take_private_step,
    canaries: int = 1000,
    confidence: float = 0.95,
) -> EpsilonLowerBound:
    """Train a table of canaries under the plan and bound epsilon from below.

    Args:
        plan: sample rate, steps, rounds, clipping and noise multiplier as in the real run.
        make_engine: the gradient engine under audit.
        step: the training step under audit.
        canaries: their number; more give a sharper bound.
        confidence: of the bound.

    """
    included = [bool(secrets.randbits(1)) for _ in range(canaries)]
    if plan.clipping.mode == "tower":
        raise PrivacyError("the canary table has no towers", "Audit with mode=flat; the noise is the same.")
    table = nn.Embedding(canaries, 1)
    nn.init.zeros_(table.weight)
    engine = make_engine(table, _compute_canary_losses, plan.clipping)
    optimizer = NoisyOptimizer(torch.optim.SGD(table.parameters(), lr=1.0), plan, NoiseSource())
    members = [i for i, member in enumerate(included) if member]
    sampler = PatientSampler(
        [[i] for i in members],
        sample_rate=plan.sample_rate,
        steps=plan.run_event.steps,
        max_records_per_patient=1,
        max_physical_batch_size=4096,
    )
    optimizer.allow_steps(plan.run_event)
    for physical in sampler:
        step(engine, optimizer, [(torch.tensor(b.rows), b.patients) for b in physical])
    scores = table.weight.detach().flatten().numpy()
    found = bound_from_scores(scores, included, plan.delta, confidence)
    return EpsilonLowerBound(plan, found, confidence)


def bound_from_scores(
    scores: NDArray[np.floating], included: Sequence[bool], delta: float, confidence: float = 0.95
) -> float:
    """Return the largest epsilon that the guesses refute, 0 if none.

    Args:
        scores: [m], higher where the canary looks included.
        included: [m], the truth.
        delta: of the claimed guarantee.
        confidence: of the bound, divided among the numbers of guesses tried.

    """
    order, truth = np.argsort(scores), np.asarray(included)
    count, best = len(truth), 0.0
    for share in _GUESSED:
        each = max(1, int(count * share / 2))
        right = int(truth[order[-each:]].sum() + (~truth[order[:each]]).sum())
        best = max(best, _find_refuted_epsilon(count, 2 * each, right, delta, (1 - confidence) / len(_GUESSED)))
    return best


def _find_refuted_epsilon(count: int, guesses: int, right: int, delta: float, level: float) -> float:
    if _compute_p_value(count, guesses, right, 0.0, delta) > level:
        return 0.0
    low, high = 0.0, 20.0
    while high - low > 1e-3:
        middle = (low + high) / 2
        low, high = (middle, high) if _compute_p_value(count, guesses, right, middle, delta) <= level else (low, middle)
    return low


def _compute_p_value(count: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    """Return the probability of so many right guesses under (epsilon, delta)-DP: theorem 5.2 of the one-run paper."""
    pmf = compute_binomial_pmf(guesses, 1 / (1 + math.exp(-epsilon)))
    tail = float(pmf[right:].sum())
    near = np.cumsum(pmf[:right][::-1]) / np.arange(1, right + 1)  # mass just below, spread over the distance
    worst = float(near.max()) if right else 0.0
    return min(1.0, tail + 2 * count * delta * worst)


def compute_binomial_pmf(n: int, p: float) -> NDArray[np.float64]:
    """Return the probabilities of 0..n successes."""
    if p in (0.0, 1.0):
        return np.eye(n + 1)[0 if p == 0 else n]
    k = np.arange(n + 1)
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    log_choose = log_factorial[n] - log_factorial - log_factorial[::-1]
    pmf: NDArray[np.float64] = np.exp(log_choose + k * math.log(p) + (n - k) * math.log1p(-p))
    return pmf


def run_membership_test(
    members: NDArray[np.floating], others: NDArray[np.floating], plan: PrivacyPlan, confidence: float = 0.95
) -> EpsilonLowerBound:
    """Bound epsilon by how well one loss threshold tells members from non-members.

    The threshold is chosen on every second value and evaluated on the others.

    Args:
        members: losses of patients in the training set.
        others: losses of patients that were not.
        plan: of the training.
        confidence: of the bound.

    """
    if min(len(members), len(others)) < 4:
        raise PrivacyError("the membership test needs at least four members and four others", "Give it more patients.")
    candidates = np.concatenate([members[::2], others[::2]])
    best = max(candidates, key=lambda t: (members[::2] <= t).mean() - (others[::2] <= t).mean())
    inside, outside = members[1::2] <= best, others[1::2] <= best
    level = (1 - confidence) / 2
    hits, alarms = (
        _compute_rate_lower_limit(int(inside.sum()), len(inside), level),
        _compute_rate_upper_limit(int(outside.sum()), len(outside), level),
    )
    found = math.log((hits - plan.delta) / alarms) if hits > plan.delta + alarms else 0.0
    return EpsilonLowerBound(plan, found, confidence)


def _compute_rate_lower_limit(right: int, n: int, level: float) -> float:
    """Return the Clopper-Pearson lower limit of a rate."""
    low, high = 0.0, right / n
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (middle, high) if compute_binomial_pmf(n, middle)[right:].sum() < level else (low, middle)
    return low


def _compute_rate_upper_limit(right: int, n: int, level: float) -> float:
    return 1 - _compute_rate_lower_limit(n - right, n, level)
