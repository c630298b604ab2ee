"""The interface of the gradient engines, and helpers that they share.

For one physical batch, an engine adds the sum over patients of their clipped gradients to `p.summed_grad` of every
trainable parameter. Opacus uses the same field, so its optimizer can continue from there.

The sum is total: a patient whose loss, norm or gradient is not finite adds exactly zero and changes no other patient's
part. There is no exception, no second pass and no branch that depends on a patient's values: a crafted model must not
be able to learn from an error or from the time of a step whether a patient has a property.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from fedhealth.errors import PrivacyError
from fedhealth.privacy.mechanisms.clipping import Clipping

Batch = Any
"""Nested dicts, lists and tuples; every tensor's first dimension is the row."""

LossFn = Callable[[nn.Module, Batch], Tensor]
"""(model, batch) -> one loss per row: [B], or [B, ...] of which the engine takes the mean per row."""


@dataclass(frozen=True)
class ClippedBatch:
    """Losses and norms of one physical batch. Private: not noised, never leaves the site.

    Attributes:
        losses: [B] per-row losses, detached.
        norms: [G] L2 norms of the patients' whole gradients before clipping, in order of first appearance; 0 for a
            patient who contributes nothing because a value is not finite.

    """

    losses: Tensor
    norms: Tensor


class GradientEngine(Protocol):
    """Add clipped sums of per-patient gradients; see the module's docstring."""

    def accumulate(self, batch: Batch, patients: Sequence[int]) -> ClippedBatch:
        """Add the batch's clipped sum to `p.summed_grad`.

        Args:
            batch: B rows.
            patients: B patient numbers, one per row; all rows of a patient are in this batch.

        Raises:
            PrivacyError: the loss or a layer mixes rows.

        """
        ...


class PatientIndex:
    """Map rows to patients, which are numbered in order of first appearance.

    Args:
        patients: B patient identifiers, one per row.
        device: of the index tensors.

    Attributes:
        rows: the rows of each patient.
        count: number of patients.
        has_single_rows: whether every patient has exactly one row.
        max_rows: the most rows of any patient.
        patient_of_row: [B] patient numbers.

    """

    def __init__(self, patients: Sequence[int], device: torch.device) -> None:
        order: dict[int, list[int]] = {}
        for row, patient in enumerate(patients):
            order.setdefault(int(patient), []).append(row)
        self.rows = list(order.values())
        self.count = len(self.rows)
        self.has_single_rows = self.count == len(patients)
        self.max_rows = max((len(rows) for rows in self.rows), default=0)
        numbers = {patient: i for i, patient in enumerate(order)}
        self.patient_of_row = _copy_to_device([numbers[int(p)] for p in patients], device)
        if not self.has_single_rows:
            padded = [rows + [rows[0]] * (self.max_rows - len(rows)) for rows in self.rows]
            filled = [[i < len(rows) for i in range(self.max_rows)] for rows in self.rows]
            self._slots = _copy_to_device(padded, device)
            self._filled = _copy_to_device(filled, device)

    def get_rows(self, some: slice) -> slice | Tensor:
        """Return the rows of some patients: M slots each, where M is the most rows of any patient."""
        return some if self.has_single_rows else self._slots[some].flatten()

    def concatenate_rows(self, x: Tensor, some: slice) -> Tensor:
        """Concatenate the rows of each patient: [S * M, K, T, n] -> [S, K, M * T, n]; unfilled slots become zero."""
        if self.has_single_rows:
            return x
        x = x.view(-1, self.max_rows, *x.shape[1:]) * self._filled[some][:, :, None, None, None]
        return x.transpose(1, 2).flatten(2, 3)

    def sum_over_rows(self, per_row: Tensor) -> Tensor:
        """Sum [B, ...] over the rows of every patient: [G, ...]."""
        if self.has_single_rows:
            return per_row
        total = per_row.new_zeros((self.count, *per_row.shape[1:]))
        return total.index_add_(0, self.patient_of_row, per_row)


def _copy_to_device(numbers: Sequence[object], device: torch.device) -> Tensor:
    """Return numbers as a tensor; a GPU copies it while the host goes on."""
    tensor = torch.tensor(numbers)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def reduce_row_losses(losses: Tensor, rows: int) -> Tensor:
    """Reduce losses [B, ...] to [B] by the mean of each row, so that no shape can couple the rows.

    Raises:
        PrivacyError: the loss was already reduced over the rows.

    """
    if losses.dim() == 0 or losses.shape[0] != rows:
        raise PrivacyError(
            f"the loss has shape {list(losses.shape)} for {rows} rows",
            "Compute it with reduction='none', one value per row; the engine sums and clips.",
        )
    return losses.reshape(rows, -1).mean(1)


def compute_clip_factors(clipping: Clipping, squared_norms: Tensor, losses: Tensor) -> tuple[Tensor, Tensor]:
    """Return the clip factors [G, K] and the norms [G]; both are zero for a patient with a value that is not finite.

    Args:
        clipping: the rule.
        squared_norms: [G, K], see `Clipping.compute_factors`.
        losses: [G], the sum of each patient's losses.

    """
    finite = squared_norms.isfinite().all(1) & losses.isfinite()
    factors = clipping.compute_factors(squared_norms)
    norms = squared_norms.sum(1).sqrt()
    return factors.where(finite[:, None], torch.zeros_like(factors)), norms.where(finite, torch.zeros_like(norms))


def zero_non_finite(values: Tensor) -> Tensor:
    """Return a copy in which NaN and infinity are zero: zero times infinity is not zero, so a factor is not enough.

    Only a patient whose factor is zero has such values, so nobody else's gradient changes. It takes the same time for
    all values.
    """
    return torch.nan_to_num(values, 0.0, 0.0, 0.0)


@contextmanager
def disable_tf32() -> Iterator[None]:
    """Compute convolutions with all digits of float32 (a GPU keeps ten bits by default), as the norms are computed."""
    cudnn = torch.backends.cudnn
    with cudnn.flags(cudnn.enabled, cudnn.benchmark, deterministic=cudnn.deterministic, allow_tf32=False):
        yield


def widen_half(values: Tensor) -> Tensor:
    """Return values of a forward pass in half precision as float32: norms and sums must see the same exact numbers."""
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values


def select_rows(batch: Batch, rows: Sequence[int], total: int) -> Batch:
    """Return the given rows of a batch of `total` rows; values that are not tensors are returned unchanged."""
    if isinstance(batch, Tensor):
        if batch.dim() == 0 or batch.shape[0] != total:
            raise PrivacyError(
                f"a batch tensor has shape {list(batch.shape)}, but the batch has {total} rows",
                "Give every tensor of the batch the row as its first dimension.",
            )
        return batch[torch.as_tensor(rows, dtype=torch.long, device=batch.device)]
    if isinstance(batch, Mapping):
        return {key: select_rows(value, rows, total) for key, value in batch.items()}
    if isinstance(batch, list | tuple):
        return type(batch)([select_rows(value, rows, total) for value in batch])
    return batch


def get_trainable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that require a gradient by name; a shared parameter only under its first name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def add_to_summed_grad(parameter: nn.Parameter, value: Tensor) -> None:
    """Add to the parameter's clipped sum; create it if there is none."""
    total = getattr(parameter, "summed_grad", None)
    value = value.reshape(parameter.shape)
    parameter.summed_grad = value.contiguous() if total is None else total.add_(value)  # type: ignore[attr-defined]


ORACLE = "privacy.engine=oracle, which takes any model, one patient at a time"


def check_row_independence(model: nn.Module) -> None:
    """Raise if a layer mixes the rows of a batch, or if a parameter is in half precision.

    Raises:
        PrivacyError: names the layer or parameter.

    """
    for name, module in model.named_modules():
        batch_norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
        instance_norm = isinstance(module, nn.modules.instancenorm._InstanceNorm) and module.track_running_stats
        if (batch_norm or instance_norm) and (module.training or module.running_mean is None):
            raise PrivacyError(
                f"layer {name} ({type(module).__name__}) computes statistics over the batch",
                "Use GroupNorm in its place (model.image.norm=group), or keep it in evaluation mode (norm=freeze).",
            )
    for name, parameter in get_trainable_parameters(model).items():
        if parameter.dtype not in (torch.float32, torch.float64):
            raise PrivacyError(
                f"parameter {name} is {parameter.dtype}",
                "Train in float32: norms and clipping in half precision break the bound.",
            )
