"""What every gradient engine promises, and the small things they share.

An engine adds, for one physical batch, the sum over patients of their clipped gradients to `p.summed_grad` of every
trainable parameter: the field in which Opacus keeps it, so that its optimizer takes over from there.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from fedhealth.errors import PrivacyError

Batch = Any
"""Nested dicts, lists and tuples; every tensor's first dimension is the row."""

LossFn = Callable[[nn.Module, Batch], Tensor]
"""(model, batch) -> one loss per row: [B], or [B, ...] of which the engine takes the mean per row."""


@dataclass(frozen=True)
class Clipped:
    """What an engine saw in one physical batch. Private: not noised, never leaves the site.

    Attributes:
        losses: [B] per-row losses, detached.
        norms: [G] L2 norms of the patients' whole gradients before clipping, in order of first appearance.
        dropped: patients left out because their gradient was not finite.

    """

    losses: Tensor
    norms: Tensor
    dropped: int = 0


class GradientEngine(Protocol):
    """Adds clipped sums of per-patient gradients; see the module's docstring."""

    def accumulate(self, batch: Batch, patients: Sequence[int]) -> Clipped:
        """Add the batch's clipped sum to `p.summed_grad`.

        Args:
            batch: B rows.
            patients: B patient numbers, one a row; all rows of a patient are in this batch.

        Raises:
            PrivacyError: when the loss does not keep the rows apart, or a layer does not.

        """
        ...


class Patients:
    """Rows to patients: numbered in order of first appearance.

    Args:
        of_rows: B patient identifiers.
        device: where the index tensors live.

    """

    def __init__(self, of_rows: Sequence[int], device: torch.device) -> None:
        order: dict[int, list[int]] = {}
        for row, patient in enumerate(of_rows):
            order.setdefault(int(patient), []).append(row)
        self.rows = list(order.values())
        self.count = len(self.rows)
        self.single = self.count == len(of_rows)
        self.most_rows = max((len(rows) for rows in self.rows), default=0)
        numbers = {patient: i for i, patient in enumerate(order)}
        self.of_row = torch.tensor([numbers[int(p)] for p in of_rows], device=device)
        if not self.single:
            padded = [rows + [rows[0]] * (self.most_rows - len(rows)) for rows in self.rows]
            filled = [[i < len(rows) for i in range(self.most_rows)] for rows in self.rows]
            self._slots = torch.tensor(padded, device=device)
            self._filled = torch.tensor(filled, device=device)

    def rows_of(self, some: slice) -> slice | Tensor:
        """Return the rows of some patients: M slots each, M being the most rows that any patient has."""
        return some if self.single else self._slots[some].flatten()

    def end_to_end(self, x: Tensor, some: slice) -> Tensor:
        """Join the slots of every patient: [S * M, K, T, n] -> [S, K, M * T, n]; unfilled slots become zero."""
        if self.single:
            return x
        x = x.view(-1, self.most_rows, *x.shape[1:]) * self._filled[some][:, :, None, None, None]
        return x.transpose(1, 2).flatten(2, 3)

    def add_up(self, per_row: Tensor) -> Tensor:
        """Sum [B, ...] over the rows of every patient: [G, ...]."""
        if self.single:
            return per_row
        total = per_row.new_zeros((self.count, *per_row.shape[1:]))
        return total.index_add_(0, self.of_row, per_row)


def per_row(losses: Tensor, rows: int) -> Tensor:
    """Reduce losses [B, ...] to [B], so that no shape can couple the rows.

    Raises:
        PrivacyError: for a loss that was already reduced over the rows.

    """
    if losses.dim() == 0 or losses.shape[0] != rows:
        raise PrivacyError(
            f"the loss has shape {list(losses.shape)} for {rows} rows",
            "Compute it with reduction='none', one value a row; the engine sums and clips.",
        )
    return losses.reshape(rows, -1).mean(1)


def select(batch: Batch, rows: Sequence[int], total: int) -> Batch:
    """Return the given rows of a batch of `total` rows; what is no tensor passes through."""
    if isinstance(batch, Tensor):
        if batch.dim() == 0 or batch.shape[0] != total:
            raise PrivacyError(
                f"a batch tensor has shape {list(batch.shape)}, but the batch has {total} rows",
                "Give every tensor of the batch the row as its first dimension.",
            )
        return batch[torch.as_tensor(rows, dtype=torch.long, device=batch.device)]
    if isinstance(batch, Mapping):
        return {key: select(value, rows, total) for key, value in batch.items()}
    if isinstance(batch, list | tuple):
        return type(batch)([select(value, rows, total) for value in batch])
    return batch


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that require a gradient, each once, by its first name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def add_to(parameter: nn.Parameter, value: Tensor) -> None:
    """Add to the parameter's clipped sum, starting one where there is none."""
    total = getattr(parameter, "summed_grad", None)
    value = value.reshape(parameter.shape)
    parameter.summed_grad = value.contiguous() if total is None else total.add_(value)  # type: ignore[attr-defined]


def check_rows_apart(model: nn.Module) -> None:
    """Refuse what mixes the rows of a batch or what no engine can handle, naming it.

    Raises:
        PrivacyError: for batch statistics in training mode, and for parameters in half precision.

    """
    for name, module in model.named_modules():
        batch_norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
        instance_norm = isinstance(module, nn.modules.instancenorm._InstanceNorm) and module.track_running_stats
        if (batch_norm or instance_norm) and (module.training or module.running_mean is None):
            raise PrivacyError(
                f"layer {name} ({type(module).__name__}) computes statistics over the batch",
                "Call prepare(model, norm='group') to replace it or norm='freeze' to keep it in eval mode.",
            )
    for name, parameter in trainable(model).items():
        if parameter.dtype not in (torch.float32, torch.float64):
            raise PrivacyError(
                f"parameter {name} is {parameter.dtype}",
                "Train in float32: norms and clipping in half precision break the bound.",
            )
