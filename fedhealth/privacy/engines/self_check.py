"""Before training: does the engine do to this model what the definition says?

On a few samples, in the real dtype and memory format, the engine's clipped sum is compared with the oracle's, and
leaving out any one patient must move it by no more than the bound. The bound is set so low for the check that every
patient is clipped, and once so high that none is: what couples the patients' scales shows only there. Randomness in
the model (dropout) is switched off meanwhile, as the two would draw differently.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from fedhealth.errors import PrivacyError
from fedhealth.privacy.engines.base import Batch, GradientEngine, LossFn, Patients, per_row, select, trainable
from fedhealth.privacy.engines.clipping import Clipping
from fedhealth.privacy.engines.oracle import Oracle

MakeEngine = Callable[[nn.Module, LossFn, Clipping], GradientEngine]
"""An engine's class, such as `BookKeeping`."""

# Relative to the bound; a GPU's convolutions round to three digits unless told otherwise.
_TOLERANCE = 5e-3


@dataclass(frozen=True)
class Checked:
    """What the check measured, both relative to the bound.

    Attributes:
        difference: norm of engine minus oracle.
        sensitivity: the most that leaving out one patient moved the sum.

    """

    difference: float
    sensitivity: float


def selfcheck(
    make: MakeEngine, model: nn.Module, loss_fn: LossFn, clipping: Clipping, batch: Batch, patients: Sequence[int]
) -> Checked:
    """Compare an engine with the oracle and check its sensitivity; the model and its gradients stay as they were.

    Args:
        make: the engine to check.
        model: in training mode, on its device.
        loss_fn: (model, batch) -> losses.
        clipping: the rule to be used; its bound is lowered for the check.
        batch: a few rows.
        patients: their patients, at least two.

    Raises:
        PrivacyError: naming the parameter that is off most, or the patient count too small to tell.

    """
    count = len(set(patients))
    if count < 2:
        raise PrivacyError("the self-check needs at least two patients", "Give it a few samples more.")
    with _undisturbed(model), _deterministic(model, loss_fn, batch, len(patients)):
        low, high = _bounds(model, loss_fn, clipping, batch, patients)
        _against_oracle(make, model, loss_fn, high, batch, patients)
        engine = make(model, loss_fn, low)
        whole = clipped_sum(engine, model, batch, patients)
        difference = _against_oracle(make, model, loss_fn, low, batch, patients)
        sensitivity = 0.0
        for rows in Patients(patients, torch.device("cpu")).rows:
            rest = [i for i in range(len(patients)) if i not in rows]
            less = clipped_sum(engine, model, select(batch, rest, len(patients)), [patients[i] for i in rest])
            sensitivity = max(sensitivity, _distance(whole, less) / low.bound)
    if sensitivity > 1 + _TOLERANCE:
        raise PrivacyError(
            f"leaving out one patient moves the clipped sum by {sensitivity:.2f} times the bound",
            "Some part of the model or the loss mixes the rows of a batch; use the oracle engine to find it.",
        )
    return Checked(difference, sensitivity)


def clipped_sum(engine: GradientEngine, model: nn.Module, batch: Batch, patients: Sequence[int]) -> dict[str, Tensor]:
    """Return what the engine adds for this batch, by parameter name; sums present before are put back."""
    named = trainable(model)
    before = {name: getattr(p, "summed_grad", None) for name, p in named.items()}
    for p in named.values():
        p.summed_grad = None  # type: ignore[attr-defined]
    try:
        engine.accumulate(batch, patients)
        return {name: p.summed_grad for name, p in named.items() if p.summed_grad is not None}  # type: ignore[attr-defined]
    finally:
        for name, p in named.items():
            p.summed_grad = before[name]  # type: ignore[attr-defined]


def _bounds(
    model: nn.Module, loss_fn: LossFn, clipping: Clipping, batch: Batch, patients: Sequence[int]
) -> tuple[Clipping, Clipping]:
    """Return the rule with a bound below every patient's norm, and with one at the largest norm."""
    norms = Oracle(model, loss_fn, clipping).accumulate(batch, patients).norms
    positive = norms[norms > 0]
    if not len(positive):
        return clipping, clipping
    groups = clipping.groups**0.5  # with towers each gets its share
    low = min(clipping.bound, 0.1 * float(positive.min()))
    return replace(clipping, bound=low), replace(clipping, bound=groups * 1.1 * float(positive.max()))


def _against_oracle(
    make: MakeEngine, model: nn.Module, loss_fn: LossFn, clipping: Clipping, batch: Batch, patients: Sequence[int]
) -> float:
    """Return the difference relative to the bound."""
    found = clipped_sum(make(model, loss_fn, clipping), model, batch, patients)
    truth = clipped_sum(Oracle(model, loss_fn, clipping), model, batch, patients)
    errors = {name: _distance(_only(found, name), _only(truth, name)) for name in {*found, *truth}}
    total = sum(error**2 for error in errors.values()) ** 0.5 / clipping.bound
    if not total <= _TOLERANCE:
        worst = max(errors, key=lambda name: errors[name])
        raise PrivacyError(
            f"the engine's clipped sum differs from the exact one by {total:.3g} times the bound, most in {worst}",
            "Freeze or replace that layer, or train with the oracle engine.",
        )
    return total


def _only(sums: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {name: sums[name]} if name in sums else {}


def _distance(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> float:
    """Return the L2 distance; a missing value counts as zero."""
    total = 0.0
    for name in {*left, *right}:
        sides = [side[name].double() for side in (left, right) if name in side]
        total += float((sides[0] - sides[1] if len(sides) == 2 else sides[0]).square().sum())
    return total**0.5


@contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """Put back the clipped sums, gradients and buffers."""
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


@contextmanager
def _deterministic(model: nn.Module, loss_fn: LossFn, batch: Batch, rows: int) -> Iterator[None]:
    """Switch dropout off; where the loss still varies, the whole model goes to eval mode for the check."""
    dropouts = [(m, m.p) for m in model.modules() if isinstance(m, nn.modules.dropout._DropoutNd)]
    modes = [(m, m.training) for m in model.modules()]
    try:
        for dropout, _ in dropouts:
            dropout.p = 0.0
        with torch.no_grad():
            first, second = (per_row(loss_fn(model, batch), rows) for _ in range(2))
        if not torch.allclose(first, second, rtol=1e-4, atol=1e-6):
            model.eval()
        yield
    finally:
        for dropout, p in dropouts:
            dropout.p = p
        for module, mode in modes:
            module.training = mode
