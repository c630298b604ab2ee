"""One step of private training, as the trainer takes it and the audit checks it."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from fedhealth.privacy.engines.base import Batch, GradientEngine
from fedhealth.privacy.engines.dp_optimizer import NoisyOptimizer

PhysicalBatches = Iterable[tuple[Batch, Sequence[int]]]
"""The physical batches of one logical batch: rows, and the patient of each."""

TrainStep = Callable[[GradientEngine, NoisyOptimizer, PhysicalBatches], Tensor]
"""(engine, optimizer, physical batches) -> one optimizer step; returns the rows' losses, private."""


def take_private_step(engine: GradientEngine, optimizer: NoisyOptimizer, physical: PhysicalBatches) -> Tensor:
    """Take one step over a logical batch, which may be empty.

    Returns:
        losses [B] of its rows: private, not noised.

    """
    optimizer.zero_grad()
    losses = [engine.accumulate(batch, patients).losses.float().cpu() for batch, patients in physical]
    optimizer.step()
    return torch.cat([torch.zeros(0), *losses])
