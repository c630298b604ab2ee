"""One step of private training, as the trainer takes it and the audit checks it."""

from collections.abc import Callable, Iterable, Sequence

from fedhealth.privacy.engines.base import Batch, GradientEngine
from fedhealth.privacy.engines.dp_optimizer import NoisyOptimizer

PhysicalBatches = Iterable[tuple[Batch, Sequence[int]]]
"""The physical batches of one logical batch: rows, and the patient of each."""

TrainStep = Callable[[GradientEngine, NoisyOptimizer, PhysicalBatches], None]
"""(engine, optimizer, physical batches) -> one optimizer step; returns nothing, because losses are not noised."""


def take_private_step(engine: GradientEngine, optimizer: NoisyOptimizer, physical: PhysicalBatches) -> None:
    """Take one step over a logical batch, which may be empty; losses and norms are discarded."""
    optimizer.zero_grad()
    for batch, patients in physical:
        engine.accumulate(batch, patients)
    optimizer.step()
