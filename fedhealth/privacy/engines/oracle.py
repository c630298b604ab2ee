"""The oracle engine: one patient at a time. The reference for the others, and the fallback where memory is short."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fedhealth.privacy.engines.base import (
    Batch,
    Clipped,
    LossFn,
    Patients,
    add_to,
    check_rows_apart,
    per_row,
    select,
    trainable,
)
from fedhealth.privacy.engines.clipping import Clipping


class Oracle:
    """Gradient engine that runs every patient alone; takes any model whose rows are independent.

    Args:
        model: any model.
        loss_fn: (model, batch) -> losses [B] or [B, ...].
        clipping: the rule that bounds a patient's contribution.

    """

    def __init__(self, model: nn.Module, loss_fn: LossFn, clipping: Clipping) -> None:
        check_rows_apart(model)
        self._model, self._loss_fn, self._clipping = model, loss_fn, clipping

    def accumulate(self, batch: Batch, patients: Sequence[int]) -> Clipped:
        """Add the batch's clipped sum to `p.summed_grad`."""
        check_rows_apart(self._model)
        losses, norms, dropped = [], [], 0
        for rows in Patients(patients, torch.device("cpu")).rows:
            loss, squared, gradients = self._one(select(batch, rows, len(patients)), len(rows))
            if not bool(squared.isfinite().all() & loss.isfinite().all()):
                dropped += 1
                continue
            factors = self._clipping.factors(squared[None])[0]
            for parameter, group, gradient in gradients:
                add_to(parameter, gradient * factors[group])
            losses.append(loss)
            norms.append(squared.sum().sqrt())
        empty = torch.zeros(0)
        return Clipped(torch.cat(losses) if losses else empty, torch.stack(norms) if norms else empty, dropped)

    def _one(self, batch: Batch, rows: int) -> tuple[Tensor, Tensor, list[tuple[nn.Parameter, int, Tensor]]]:
        """Return one patient's losses [rows], squared norms [K] and gradients with their clipping groups."""
        named = trainable(self._model)
        losses = per_row(self._loss_fn(self._model, batch), rows)
        found = torch.autograd.grad(losses.sum(), list(named.values()), allow_unused=True)
        groups = self._clipping.assign(named)
        used = [
            (parameter, group, gradient)
            for parameter, group, gradient in zip(named.values(), groups, found, strict=True)
            if gradient is not None
        ]
        squared = losses.new_zeros(self._clipping.groups)
        for _, group, gradient in used:
            squared[group] += gradient.square().sum()
        return losses.detach(), squared, used
