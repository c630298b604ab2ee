"""The quick audit: does one training step release what the plan says, and nothing else?

It looks at the real model, loss and step: is the sensitivity within the bound, is there noise of the right size on
every weight (also on the rows of an embedding that no patient touched), does the model move by the noised sums and by
nothing more, and does the ledger add up. The statistical audit is in `canaries.py`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from fedhealth.errors import PrivacyError
from fedhealth.privacy.accounting.ledger import spent, verify
from fedhealth.privacy.accounting.plan import PrivacyPlan
from fedhealth.privacy.engines.base import Batch, LossFn, trainable
from fedhealth.privacy.engines.book_keeping import BookKeeping
from fedhealth.privacy.engines.dp_optimizer import NoisyOptimizer
from fedhealth.privacy.engines.self_check import MakeEngine, selfcheck
from fedhealth.privacy.engines.step import TrainStep, private_step
from fedhealth.privacy.mechanisms.gaussian_noise import NoiseSource


@dataclass(frozen=True)
class Finding:
    """One question of the audit and its answer."""

    name: str
    passed: bool
    detail: str


class _RecordingNoise(NoiseSource):
    """Real noise that remembers what was noised and what came out."""

    def __init__(self) -> None:
        super().__init__()
        self.order: list[tuple[Tensor, Tensor]] = []

    def add_(self, total: Tensor, std: float) -> Tensor:
        before = total.detach().clone()
        noised = super().add_(total, std)
        self.order.append((before, noised.detach().clone()))
        return noised


def quick_audit(
    model: nn.Module,
    loss_fn: LossFn,
    plan: PrivacyPlan,
    batch: Batch,
    patients: Sequence[int],
    *,
    make: MakeEngine = BookKeeping,
    step: TrainStep = private_step,
    ledger: Path | None = None,
) -> list[Finding]:
    """Audit one step; the model's weights are put back.

    Args:
        model: in training mode.
        loss_fn: (model, batch) -> losses.
        plan: what is promised.
        batch: a few rows.
        patients: their patients, at least two.
        make: the gradient engine.
        step: the training step to audit.
        ledger: checked and replayed when given.

    """
    findings = [_sensitivity(make, model, loss_fn, plan, batch, patients)]
    findings += _one_step(make, model, loss_fn, plan, batch, patients, step)
    if ledger is not None:
        findings.append(_replay(ledger, plan.delta))
    return findings


def _sensitivity(
    make: MakeEngine, model: nn.Module, loss_fn: LossFn, plan: PrivacyPlan, batch: Batch, patients: Sequence[int]
) -> Finding:
    name = "removing one patient moves the sum by at most the bound"
    try:
        checked = selfcheck(make, model, loss_fn, plan.clipping, batch, patients)
    except PrivacyError as error:
        return Finding(name, False, error.problem)
    return Finding(name, True, f"at most {checked.sensitivity:.4f} times the bound")


def _one_step(
    make: MakeEngine,
    model: nn.Module,
    loss_fn: LossFn,
    plan: PrivacyPlan,
    batch: Batch,
    patients: Sequence[int],
    step: TrainStep,
) -> list[Finding]:
    named = trainable(model)
    start = {name: p.detach().clone() for name, p in named.items()}
    noise = _RecordingNoise()
    optimizer = NoisyOptimizer(torch.optim.SGD(named.values(), lr=1.0), plan, noise)
    optimizer.allow(plan.round_event)
    try:
        step(make(model, loss_fn, plan.clipping), optimizer, [(batch, patients)])
        moved = {name: start[name] - p.detach() for name, p in named.items()}
    finally:
        with torch.no_grad():
            for name, p in named.items():
                p.copy_(start[name])
        optimizer.zero_grad()
    added = [(after - before).double() for before, after in noise.order]
    return [
        _noise_has_the_right_size(added, plan.std, sum(p.numel() for p in named.values())),
        _no_weight_without_noise(list(named), added),
        _moved_by_what_was_noised(moved, [after for _, after in noise.order], plan),
    ]


def _noise_has_the_right_size(added: list[Tensor], std: float, weights: int) -> Finding:
    name = "noise of the planned size was added once to every weight"
    values = torch.cat([a.flatten() for a in added]) if added else torch.zeros(0)
    if len(values) != weights:
        return Finding(name, False, f"{len(values)} values were noised, {weights} weights are trainable")
    ratio = float((values / std).square().mean())
    allowed = 6 * math.sqrt(2 / weights) + 2e-3  # six deviations of a chi-square, and the grid's rounding
    return Finding(name, abs(ratio - 1) <= allowed, f"its variance is {ratio:.4f} of the planned one")


def _no_weight_without_noise(names: list[str], added: list[Tensor]) -> Finding:
    name = "no row of any weight stays without noise"
    for parameter, noise in zip(names, added, strict=False):
        rows = noise.reshape(len(noise), -1) if noise.dim() > 1 else noise.reshape(1, -1)
        bare = int((rows == 0).all(1).sum())
        if bare and rows.shape[1] > 8:  # a short row may round to zero by chance
            return Finding(name, False, f"{bare} rows of {parameter}")
    return Finding(name, True, f"{len(added)} parameters")


def _moved_by_what_was_noised(moved: dict[str, Tensor], released: list[Tensor], plan: PrivacyPlan) -> Finding:
    name = "the model moved by the noised sums and nothing else"
    if len(released) != len(moved):
        return Finding(name, False, f"{len(released)} noised sums for {len(moved)} parameters")
    scale = plan.std / plan.normaliser
    for (parameter, actual), total in zip(moved.items(), released, strict=True):
        excess = float((actual - total / plan.normaliser).abs().max()) / scale
        if excess > 1e-2:
            return Finding(name, False, f"{parameter} moved {excess:.2g} noise deviations more")
    return Finding(name, True, f"{len(moved)} parameters")


def _replay(ledger: Path, delta: float) -> Finding:
    name = "the ledger is whole and adds up"
    try:
        entries = verify(ledger)
    except PrivacyError as error:
        return Finding(name, False, error.problem)
    runs = sorted({e.run for e in entries})
    each = ", ".join(f"{run}: {spent(entries, delta, run):.2f}" for run in runs)
    return Finding(name, True, f"epsilon {spent(entries, delta):.2f} in all ({each}) at delta {delta:g}")
