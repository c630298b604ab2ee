"""One step of private training: what trains, and what the audit looks at."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from fedhealth.privacy.engines.base import Batch, GradientEngine
from fedhealth.privacy.engines.dp_optimizer import NoisyOptimizer

Physical = Iterable[tuple[Batch, Sequence[int]]]
"""The physical batches of one logical batch: rows, and the patient of each."""

TrainStep = Callable[[GradientEngine, NoisyOptimizer, Physical], Tensor]
"""(engine, optimizer, physical batches) -> one optimizer step; returns the rows' losses, private."""


def private_step(engine: GradientEngine, optimizer: NoisyOptimizer, physical: Physical) -> Tensor:
    """Take one step over a logical batch, which may be empty.

    Returns:
        losses [B] of its rows: private, not noised.

    """
    optimizer.zero_grad()
    losses = [engine.accumulate(batch, patients).losses.float().cpu() for batch, patients in physical]
    optimizer.step()
    return torch.cat([torch.zeros(0), *losses])
