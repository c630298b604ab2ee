"""The quick audit: does one training step release what the plan says, and nothing else?

It checks the real model, loss and step. Is the sensitivity within the bound? Does every weight get noise of the right
size (also the rows of an embedding that no patient used)? Does the model change by the noised sums and by nothing more?
Is the ledger intact? The statistical audits are in `canaries.py`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from fedhealth.errors import PrivacyError
from fedhealth.privacy.accounting.ledger import verify_ledger
from fedhealth.privacy.accounting.ledger_entry import (
    LedgerEntry,
    compute_spent_epsilon,
    get_booked_events,
    get_patient_events,
)
from fedhealth.privacy.accounting.plan import PrivacyPlan
from fedhealth.privacy.engines.base import Batch, LossFn, get_trainable_parameters
from fedhealth.privacy.engines.book_keeping import BookKeepingEngine
from fedhealth.privacy.engines.dp_optimizer import NoisyOptimizer
from fedhealth.privacy.engines.self_check import EngineFactory, run_self_check
from fedhealth.privacy.engines.step import TrainStep, take_private_step
from fedhealth.privacy.mechanisms.gaussian_noise import NoiseSource
from fedhealth.utils.privacy_text import format_guarantee


@dataclass(frozen=True)
class AuditFinding:
    """One check of the audit and its result."""

    name: str
    passed: bool
    detail: str


class _RecordingNoise(NoiseSource):
    """Real noise that records its inputs and outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.order: list[tuple[Tensor, Tensor]] = []

    def add_(self, total: Tensor, std: float) -> Tensor:
        before = total.detach().clone()
        noised = super().add_(total, std)
        self.order.append((before, noised.detach().clone()))
        return noised


def run_step_audit(
    model: nn.Module,
    loss_fn: LossFn,
    plan: PrivacyPlan,
    batch: Batch,
    patients: Sequence[int],
    *,
    make_engine: EngineFactory = BookKeepingEngine,
    step: TrainStep = take_private_step,
    ledger: Path | None = None,
) -> list[AuditFinding]:
    """Audit one step; the model's weights are restored.

    Args:
        model: in training mode.
        loss_fn: (model, batch) -> losses.
        plan: the guarantee.
        batch: a few rows.
        patients: their patients, at least two.
        make_engine: the gradient engine.
        step: the training step to audit.
        ledger: checked and summed if given.

    """
    findings = [_check_sensitivity(make_engine, model, loss_fn, plan, batch, patients)]
    findings += _check_one_step(make_engine, model, loss_fn, plan, batch, patients, step)
    if ledger is not None:
        findings.append(_check_ledger(ledger, plan.delta))
    return findings


def _check_sensitivity(
    make_engine: EngineFactory,
    model: nn.Module,
    loss_fn: LossFn,
    plan: PrivacyPlan,
    batch: Batch,
    patients: Sequence[int],
) -> AuditFinding:
    name = "removing one patient moves the sum by at most the bound"
    try:
        checked = run_self_check(make_engine, model, loss_fn, plan.clipping, batch, patients)
    except PrivacyError as error:
        return AuditFinding(name, False, error.problem)
    return AuditFinding(name, True, f"at most {checked.sensitivity:.4f} times the bound")


def _check_one_step(
    make_engine: EngineFactory,
    model: nn.Module,
    loss_fn: LossFn,
    plan: PrivacyPlan,
    batch: Batch,
    patients: Sequence[int],
    step: TrainStep,
) -> list[AuditFinding]:
    named = get_trainable_parameters(model)
    start = {name: p.detach().clone() for name, p in named.items()}
    noise = _RecordingNoise()
    optimizer = NoisyOptimizer(torch.optim.SGD(named.values(), lr=1.0), plan, noise)
    optimizer.allow_steps(plan.round_event)
    try:
        step(make_engine(model, loss_fn, plan.clipping), optimizer, [(batch, patients)])
        moved = {name: start[name] - p.detach() for name, p in named.items()}
    finally:
        with torch.no_grad():
            for name, p in named.items():
                p.copy_(start[name])
        optimizer.zero_grad()
    added = [(after - before).double() for before, after in noise.order]
    return [
        _check_noise_size(added, plan.noise_std, sum(p.numel() for p in named.values())),
        _check_every_row_noised(list(named), added),
        _check_model_update(moved, [after for _, after in noise.order], plan),
    ]


def _check_noise_size(added: list[Tensor], std: float, weights: int) -> AuditFinding:
    name = "noise of the planned size was added once to every weight"
    values = torch.cat([a.flatten() for a in added]) if added else torch.zeros(0)
    if len(values) != weights:
        return AuditFinding(name, False, f"{len(values)} values were noised, {weights} weights are trainable")
    ratio = float((values / std).square().mean())
    allowed = 6 * math.sqrt(2 / weights) + 2e-3  # six deviations of a chi-square, and the grid's rounding
    return AuditFinding(name, abs(ratio - 1) <= allowed, f"its variance is {ratio:.4f} of the planned one")


def _check_every_row_noised(names: list[str], added: list[Tensor]) -> AuditFinding:
    name = "no row of any weight stays without noise"
    for parameter, noise in zip(names, added, strict=False):
        rows = noise.reshape(len(noise), -1) if noise.dim() > 1 else noise.reshape(1, -1)
        bare = int((rows == 0).all(1).sum())
        if bare and rows.shape[1] > 8:  # a short row may round to zero by chance
            return AuditFinding(name, False, f"{bare} rows of {parameter}")
    return AuditFinding(name, True, f"{len(added)} parameters")


def _check_model_update(moved: dict[str, Tensor], released: list[Tensor], plan: PrivacyPlan) -> AuditFinding:
    name = "the model moved by the noised sums and nothing else"
    if len(released) != len(moved):
        return AuditFinding(name, False, f"{len(released)} noised sums for {len(moved)} parameters")
    scale = plan.noise_std / plan.expected_batch_size
    for (parameter, actual), total in zip(moved.items(), released, strict=True):
        excess = float((actual - total / plan.expected_batch_size).abs().max()) / scale
        if excess > 1e-2:
            return AuditFinding(name, False, f"{parameter} moved {excess:.2g} noise deviations more")
    return AuditFinding(name, True, f"{len(moved)} parameters")


def _check_ledger(ledger: Path, delta: float) -> AuditFinding:
    name = "the ledger is whole and adds up"
    try:
        entries = verify_ledger(ledger)
    except PrivacyError as error:
        return AuditFinding(name, False, error.problem)
    booked: dict[str, list[LedgerEntry]] = {}
    for entry in entries:
        if entry.kind == "book":
            booked.setdefault(entry.run, []).append(entry)
    each = "".join(f"; run {run}: {_describe_spending(own, delta, run)}" for run, own in sorted(booked.items()))
    return AuditFinding(name, True, f"all runs: {_describe_spending(entries, delta)}{each}")


def _describe_spending(entries: Sequence[LedgerEntry], delta: float, run: str | None = None) -> str:
    """Return what one run, in its own unit, or all runs together spent."""
    events = get_patient_events(entries) if run is None else get_booked_events(entries)
    noise_multiplier = min((event.noise_multiplier for event in events), default=math.nan)
    unit = "patient" if run is None else entries[0].unit
    return format_guarantee(compute_spent_epsilon(entries, delta, run), delta, noise_multiplier, unit)
