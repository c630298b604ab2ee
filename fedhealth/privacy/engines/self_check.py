"""Self-check before training: does the engine clip this model's gradients correctly?

On a few samples, in the real dtype and memory format, the engine's clipped sum is compared with the oracle's, and
removing any one patient must change it by no more than the bound. The check uses a bound so low that every patient is
clipped, and once a bound so high that none is: only the high bound reveals gradients that couple patients by scale.
Dropout is disabled during the check, because the two engines would draw different masks.

Where activations are checkpointed, norms and sums come from two passes over the blocks. So each patient's part is also
measured as in training, with dropout: a block that does not compute the same again breaks the bound.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from fedhealth.errors import PrivacyError
from fedhealth.privacy.engines.base import (
    ORACLE,
    Batch,
    GradientEngine,
    LossFn,
    PatientIndex,
    get_trainable_parameters,
    reduce_row_losses,
    select_rows,
)
from fedhealth.privacy.engines.oracle import OracleEngine
from fedhealth.privacy.mechanisms.clipping import SMALLEST_BOUND, Clipping
from fedhealth.utils.activation_checkpointing import has_checkpointed_blocks

EngineFactory = Callable[[nn.Module, LossFn, Clipping], GradientEngine]
"""An engine's class, such as `BookKeeping`."""

# Relative to the bound; by default a GPU's convolutions round to three digits.
TOLERANCE = 5e-3
_DRAWS = 3  # of each patient, with other random numbers


@dataclass(frozen=True)
class SelfCheckResult:
    """What the check measured, relative to the bound.

    Attributes:
        difference: norm of engine minus oracle.
        sensitivity: the largest change of the sum when one patient was removed.

    """

    difference: float
    sensitivity: float


def run_self_check(
    make_engine: EngineFactory,
    model: nn.Module,
    loss_fn: LossFn,
    clipping: Clipping,
    batch: Batch,
    patients: Sequence[int],
    tolerance: float = TOLERANCE,
) -> SelfCheckResult:
    """Compare an engine with the oracle and check its sensitivity; the model and its gradients are restored.

    Args:
        make_engine: the engine to check.
        model: in training mode, on its device.
        loss_fn: (model, batch) -> losses.
        clipping: the rule of the training; the check uses other bounds.
        batch: a few rows; every tensor [B, ...].
        patients: their patients, at least two.
        tolerance: of rounding, relative to the bound.

    Raises:
        PrivacyError: the engine is wrong (the message names the worst parameter), or there are too few patients.

    """
    count = len(set(patients))
    if count < 2:
        raise PrivacyError("the self-check needs at least two patients", "Give it a few more samples.")
    with restore_state(model), _disable_randomness(model, loss_fn, batch, len(patients)):
        low, high = _choose_clippings(model, loss_fn, clipping, batch, patients)
        _compare_with_oracle(make_engine, model, loss_fn, high, batch, patients, tolerance)
        engine = make_engine(model, loss_fn, low)
        whole = compute_clipped_sum(engine, model, batch, patients)
        difference = _compare_with_oracle(make_engine, model, loss_fn, low, batch, patients, tolerance)
        sensitivity = 0.0
        for rows in PatientIndex(patients, torch.device("cpu")).rows:
            rest = [i for i in range(len(patients)) if i not in rows]
            less = compute_clipped_sum(
                engine, model, select_rows(batch, rest, len(patients)), [patients[i] for i in rest]
            )
            sensitivity = max(sensitivity, _compute_distance(whole, less) / low.max_grad_norm)
    if sensitivity > 1 + tolerance:
        raise PrivacyError(
            f"leaving out one patient moves the clipped sum by {sensitivity:.2f} times the bound",
            "Some part of the model or the loss mixes the rows of a batch; compute each row alone.",
        )
    if has_checkpointed_blocks(model):
        with restore_state(model):
            _check_passes_agree(engine, model, batch, patients, (1 + tolerance) * low.max_grad_norm)
    return SelfCheckResult(difference, sensitivity)


def compute_clipped_sum(
    engine: GradientEngine, model: nn.Module, batch: Batch, patients: Sequence[int]
) -> dict[str, Tensor]:
    """Return what the engine adds for this batch, by parameter name; earlier sums are restored."""
    named = get_trainable_parameters(model)
    before = {name: getattr(p, "summed_grad", None) for name, p in named.items()}
    for p in named.values():
        p.summed_grad = None  # type: ignore[attr-defined]
    try:
        engine.accumulate(batch, patients)
        return {name: p.summed_grad for name, p in named.items() if p.summed_grad is not None}  # type: ignore[attr-defined]
    finally:
        for name, p in named.items():
            p.summed_grad = before[name]  # type: ignore[attr-defined]


def _check_passes_agree(
    engine: GradientEngine, model: nn.Module, batch: Batch, patients: Sequence[int], most: float
) -> None:
    """Raise if a patient alone adds more than the bound: then the norm was not that of the gradient that was summed."""
    for rows in _DRAWS * PatientIndex(patients, torch.device("cpu")).rows:
        alone = compute_clipped_sum(engine, model, select_rows(batch, rows, len(patients)), [0] * len(rows))
        if not _compute_distance(alone, {}) <= most:
            raise PrivacyError(
                "a checkpointed block does not compute the same again, so a patient can add more than the bound",
                "Let it draw from torch's own generator and keep what it changes in buffers, or set "
                "training.activation_checkpointing=false.",
            )


@contextmanager
def restore_state(model: nn.Module) -> Iterator[None]:
    """Take the clipped sums away, and restore them, the gradients and the buffers afterwards."""
    sums = [(p, getattr(p, "summed_grad", None), p.grad) for p in model.parameters()]
    buffers = [(b, b.detach().clone()) for b in model.buffers()]
    for p, _, _ in sums:
        p.summed_grad = None  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for p, total, grad in sums:
            p.summed_grad, p.grad = total, grad  # type: ignore[attr-defined]
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)


def _choose_clippings(
    model: nn.Module, loss_fn: LossFn, clipping: Clipping, batch: Batch, patients: Sequence[int]
) -> tuple[Clipping, Clipping]:
    """Return the rule with a bound below every patient's norm, and with a bound above the largest norm."""
    norms = OracleEngine(model, loss_fn, clipping).accumulate(batch, patients).norms
    positive = norms[norms > 0]
    if not len(positive):
        return clipping, clipping
    groups = clipping.group_count**0.5  # with towers, each has a share of the bound
    low = max(SMALLEST_BOUND, min(clipping.max_grad_norm, 0.1 * float(positive.min())))
    high = max(SMALLEST_BOUND, groups * 1.1 * float(positive.max()))
    return replace(clipping, max_grad_norm=low), replace(clipping, max_grad_norm=high)


def _compare_with_oracle(
    make_engine: EngineFactory,
    model: nn.Module,
    loss_fn: LossFn,
    clipping: Clipping,
    batch: Batch,
    patients: Sequence[int],
    tolerance: float,
) -> float:
    """Return the difference relative to the bound."""
    found = compute_clipped_sum(make_engine(model, loss_fn, clipping), model, batch, patients)
    truth = compute_clipped_sum(OracleEngine(model, loss_fn, clipping), model, batch, patients)
    errors = {
        name: _compute_distance(_select_parameter(found, name), _select_parameter(truth, name))
        for name in {*found, *truth}
    }
    total = sum(error**2 for error in errors.values()) ** 0.5 / clipping.max_grad_norm
    if not total <= tolerance:
        worst = max(errors, key=lambda name: errors[name])
        raise PrivacyError(
            f"the engine's clipped sum differs from the exact one by {total:.3g} times the bound, most in {worst}",
            f"Freeze or replace that layer, or use {ORACLE}.",
        )
    return total


def _select_parameter(sums: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {name: sums[name]} if name in sums else {}


def _compute_distance(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> float:
    """Return the L2 distance; a missing value counts as zero."""
    total = 0.0
    for name in {*left, *right}:
        sides = [side[name].double() for side in (left, right) if name in side]
        total += float((sides[0] - sides[1] if len(sides) == 2 else sides[0]).square().sum())
    return total**0.5


@contextmanager
def _disable_randomness(model: nn.Module, loss_fn: LossFn, batch: Batch, rows: int) -> Iterator[None]:
    """Disable dropout; if the loss still varies, put the whole model in eval mode for the check."""
    dropouts = [(m, m.p) for m in model.modules() if isinstance(m, nn.modules.dropout._DropoutNd)]
    modes = [(m, m.training) for m in model.modules()]
    try:
        for dropout, _ in dropouts:
            dropout.p = 0.0
        with torch.no_grad():
            first, second = (reduce_row_losses(loss_fn(model, batch), rows) for _ in range(2))
        if not torch.allclose(first, second, rtol=1e-4, atol=1e-6):
            model.eval()
        yield
    finally:
        for dropout, p in dropouts:
            dropout.p = p
        for module, mode in modes:
            module.training = mode
