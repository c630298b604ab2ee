"""One step of private training, as the trainer takes it and the audit checks it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fedhealth.privacy.engines.base import Batch, GradientEngine

if TYPE_CHECKING:  # it imports all of Opacus, and runs without differential privacy do without
    from fedhealth.privacy.engines.dp_optimizer import NoisyOptimizer

_ROW_MAJOR = torch.contiguous_format  # as the engines' sums are, also where convolutions are channels last

PhysicalBatches = Iterable[tuple[Batch, Sequence[int]]]
"""The physical batches of one logical batch: rows, and the patient of each."""

TrainStep = Callable[[GradientEngine, "NoisyOptimizer", PhysicalBatches], None]
"""(engine, optimizer, physical batches) -> one optimizer step; returns nothing, because losses are not noised."""


def take_private_step(engine: GradientEngine, optimizer: NoisyOptimizer, physical: PhysicalBatches) -> None:
    """Take one step over a logical batch, which may be empty; losses and norms are discarded."""
    optimizer.zero_grad()
    for batch, patients in physical:
        engine.accumulate(batch, patients)
    optimizer.step()


def sum_clipped_gradients(
    engine: GradientEngine, parameters: Mapping[str, nn.Parameter], physical: PhysicalBatches
) -> dict[str, Tensor]:
    """Return the sum of a logical batch by parameter; it has no noise yet and stays in this process."""
    for parameter in parameters.values():
        parameter.summed_grad = None  # type: ignore[attr-defined]
    for batch, patients in physical:
        engine.accumulate(batch, patients)
    sums = {}
    for name, parameter in parameters.items():
        total: Tensor | None = parameter.summed_grad  # type: ignore[attr-defined]
        sums[name] = torch.zeros_like(parameter, memory_format=_ROW_MAJOR) if total is None else total
        parameter.summed_grad = None  # type: ignore[attr-defined]
    return sums
