"""The oracle engine: one patient at a time. The reference for the others, and the fallback if memory is short."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fedhealth.privacy.engines.base import (
    Batch,
    ClippedBatch,
    LossFn,
    PatientIndex,
    add_to_summed_grad,
    check_row_independence,
    compute_clip_factors,
    get_trainable_parameters,
    reduce_row_losses,
    select_rows,
    zero_non_finite,
)
from fedhealth.privacy.mechanisms.clipping import Clipping


class OracleEngine:
    """Gradient engine that processes each patient separately; supports any model whose rows are independent.

    Args:
        model: any model.
        loss_fn: (model, batch) -> losses [B] or [B, ...].
        clipping: the rule that bounds a patient's contribution.

    """

    def __init__(self, model: nn.Module, loss_fn: LossFn, clipping: Clipping) -> None:
        check_row_independence(model)
        self._model, self._loss_fn, self._clipping = model, loss_fn, clipping

    def accumulate(self, batch: Batch, patients: Sequence[int]) -> ClippedBatch:
        """Add the batch's clipped sum to `p.summed_grad`."""
        check_row_independence(self._model)
        losses, norms = [torch.zeros(0)], [torch.zeros(0)]
        for rows in PatientIndex(patients, torch.device("cpu")).rows:
            loss, squared, gradients = self._compute_gradients(select_rows(batch, rows, len(patients)), len(rows))
            factors, norm = compute_clip_factors(self._clipping, squared[None], loss.sum()[None])
            for parameter, group, gradient in gradients:
                add_to_summed_grad(parameter, zero_non_finite(gradient * factors[0, group]))
            losses.append(loss)
            norms.append(norm)
        return ClippedBatch(*(torch.cat(parts[1:] or parts) for parts in (losses, norms)))

    def _compute_gradients(
        self, batch: Batch, rows: int
    ) -> tuple[Tensor, Tensor, list[tuple[nn.Parameter, int, Tensor]]]:
        """Return one patient's losses [rows], squared norms [K] and gradients with their clipping groups."""
        named = get_trainable_parameters(self._model)
        losses = reduce_row_losses(self._loss_fn(self._model, batch), rows)
        found = torch.autograd.grad(losses.sum(), list(named.values()), allow_unused=True)
        groups = self._clipping.assign_groups(named)
        used = [
            (parameter, group, gradient)
            for parameter, group, gradient in zip(named.values(), groups, found, strict=True)
            if gradient is not None
        ]
        squared = losses.new_zeros(self._clipping.group_count)
        for _, group, gradient in used:
            squared[group] += gradient.square().sum()
        return losses.detach(), squared, used
