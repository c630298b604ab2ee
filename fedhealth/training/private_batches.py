"""Batches and loss of private training: the rows of each protected unit, loaded one physical batch at a time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from fedhealth.config.schema import Precision, TaskKind, TrainingConfig
from fedhealth.data.examples import Batch, Examples, move_batch
from fedhealth.privacy.engines.base import LossFn
from fedhealth.privacy.engines.self_check import TOLERANCE
from fedhealth.privacy.engines.step import PhysicalBatches
from fedhealth.privacy.mechanisms.poisson_sampler import PhysicalBatch
from fedhealth.training.losses import compute_row_losses
from fedhealth.training.precision import autocast_forward, is_bf16

_BF16_TOLERANCE = 0.1  # bf16 has 8 bits; a sum of unclipped or unscaled gradients is off by more
WEIGHTS = "weights"  # in a batch: of the rows


def group_rows_by_unit(unit_of_row: np.ndarray, rows: np.ndarray) -> list[list[int]]:
    """Return the given rows of each unit, in order of first appearance.

    Args:
        unit_of_row: the patient or study number of every row of the data set.
        rows: the rows to group.

    """
    groups: dict[int, list[int]] = {}
    for row, unit in zip(rows.tolist(), unit_of_row[rows].tolist(), strict=True):
        groups.setdefault(unit, []).append(row)
    return list(groups.values())


def load_unit_batch(examples: Examples, rows: Sequence[int], device: torch.device) -> Batch:
    """Return inputs and targets of the rows on the device."""
    chosen = np.asarray(rows, np.int64)
    return move_batch(examples.batch(chosen) | {"targets": examples.targets(chosen)}, device)


def load_physical_batches(
    examples: Examples, physical: Iterable[PhysicalBatch], device: torch.device
) -> PhysicalBatches:
    """Yield the physical batches of a step; each is loaded when it is needed.

    Of a row with augmented copies, each copy is a row of the same unit with a share of the weight: the unit's gradient
    is then the mean over the copies before it is clipped.
    """
    copies = examples.copies
    for part in physical:
        if copies == 1:
            yield load_unit_batch(examples, part.rows, device), part.patients
            continue
        batch = load_unit_batch(examples, np.repeat(part.rows, copies).tolist(), device)
        weights = torch.full((len(batch["targets"]),), 1 / copies, device=device)
        yield batch | {WEIGHTS: weights}, np.repeat(part.patients, copies).tolist()


def build_loss_fn(kind: TaskKind, training: TrainingConfig | None = None) -> LossFn:
    """Return the loss of a task, one float32 value per row, as the gradient engines call it."""

    def compute_losses(model: nn.Module, batch: Batch) -> Tensor:
        targets = batch["targets"]
        with autocast_forward(training, targets.device, is_private=True):
            scores = model(batch).float()
        losses = compute_row_losses(scores, targets, kind, training)
        return losses * batch[WEIGHTS] if WEIGHTS in batch else losses

    return compute_losses


def list_checked_losses(kind: TaskKind, training: TrainingConfig, device: torch.device) -> list[tuple[LossFn, float]]:
    """Return the losses for the self-check, with the tolerance of each: in float32, then as training computes them.

    The first shows that every layer's rule is right; in bf16 alone, rounding could hide a fault.
    """
    exact = build_loss_fn(kind, replace(training, precision=Precision.float32))
    checked = [(exact, TOLERANCE)]
    if is_bf16(training, device, is_private=True):
        checked.append((build_loss_fn(kind, training), _BF16_TOLERANCE))
    return checked
