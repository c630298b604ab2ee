"""Fits whose releases are recorded, for an audit.

What a step releases is read where it leaves: as the gradient that the wrapped optimizer gets, through the public hook
for correction terms. What the loader gets is recorded, too, and whether the round was booked before its first step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor, nn

from fedhealth.data.examples import Batch, Examples
from fedhealth.errors import PrivacyError
from fedhealth.privacy.accounting.booking import Booking, find_open_booking
from fedhealth.privacy.accounting.ledger import verify_ledger
from fedhealth.privacy.accounting.ledger_folder import get_ledger_path
from fedhealth.privacy.auditing.independent_numbers import compute_expected_batch
from fedhealth.privacy.context import AccountingContext
from fedhealth.training.release_records import ReleaseRecords
from fedhealth.training.trainer import TrainingTask

if TYPE_CHECKING:
    from fedhealth.training.dpsgd_trainer import DPSGDTrainer


@dataclass(frozen=True)
class RecordingExamples(Examples):
    """Examples that record which rows each physical batch loads."""

    loads: list[list[int]] = field(default_factory=list)

    def batch(self, rows: np.ndarray) -> Batch:
        """Gather the inputs of `rows`."""
        self.loads.append([int(row) for row in rows])
        return super().batch(rows)


@dataclass(frozen=True)
class FitRecording:
    """What one fit released.

    Attributes:
        sums: by tensor, [T, n]: the noised sums of its steps, if it divides them by the batch size that it should.
        loads: by step, the rows of each physical batch.
        excess: the largest movement of a weight that the gradients do not explain, in deviations of the noise.
        loss: that the fit reports.
        is_booked_first: whether the ledger on the disk had an open booking before the first step.

    """

    sums: dict[str, np.ndarray]
    loads: list[list[list[int]]]
    excess: float
    loss: float
    is_booked_first: bool

    def list_empty_steps(self) -> list[int]:
        """Return the steps without any patient."""
        return [step for step, batches in enumerate(self.loads) if not any(batches)]


def record_fit(
    trainer: DPSGDTrainer,
    task: TrainingTask,
    accounting: AccountingContext,
    units: int,
    rate: float,
    std: float,
    most_values: int | None = None,
) -> FitRecording:
    """Train and return what was released.

    Args:
        trainer: under audit.
        task: with plain SGD; its model is trained.
        accounting: that the fit is booked under.
        units: of the task's rows.
        rate: of the sampler, by the audit's own numbers.
        std: of the noise, by the audit's own numbers.
        most_values: of a tensor that are recorded, spread over it; None for all.

    Raises:
        PrivacyError: the fit has taken another number of steps.

    """
    recorder = _StepRecorder(trainer, task, accounting, most_values)
    trained = {name: p for name, p in task.model.named_parameters() if p.requires_grad}
    start = {name: to_vector(p, most_values) for name, p in trained.items()}
    report = trainer.fit(replace(task, examples=recorder.examples, gradient_hook=recorder.record_step), accounting)
    if len(recorder.taken) != (steps := task.training.local_steps):
        raise PrivacyError(f"training released {len(recorder.taken)} steps of {steps}", "Release every step.")
    expected, learning_rate = compute_expected_batch(units, rate), task.training.optimizer["lr"]
    sums = {name: expected * np.stack([step[name] for step in recorder.taken]) for name in recorder.taken[0]}
    moved = {name: start[name] - to_vector(p, most_values) for name, p in trained.items()}
    explained = {name: learning_rate * sums[name].sum(0) / expected for name in trained}
    rounding = {name: len(recorder.taken) * np.finfo(np.float32).eps * np.abs(start[name]) for name in trained}
    off = max(float((np.abs(moved[name] - explained[name]) - rounding[name]).max()) for name in trained)
    excess = max(0.0, off) / (learning_rate * std / expected)
    return FitRecording(sums, recorder.split_loads(), excess, report.loss, recorder.is_booked_first)


class _StepRecorder:
    """Records the steps of one fit.

    Args:
        trainer: under audit.
        task: of the fit.
        accounting: that the fit is booked under.
        most_values: of a tensor that are recorded; None for all.

    Attributes:
        examples: to train on; they record what is loaded.
        taken: by step, the gradients that the optimizer got.
        is_booked_first: whether the ledger had an open booking before the first step.

    """

    def __init__(
        self, trainer: DPSGDTrainer, task: TrainingTask, accounting: AccountingContext, most_values: int | None
    ) -> None:
        source = task.examples
        self.examples = RecordingExamples(source.sources, source.labels, source.patient, source.study)
        self.taken: list[dict[str, np.ndarray]] = []
        self.is_booked_first = False
        self._trainer, self._accounting, self._most_values = trainer, accounting, most_values
        self._ends: list[int] = []

    def record_step(self, step: int, parameters: Mapping[str, nn.Parameter]) -> None:
        """Record what the optimizer gets in a step."""
        if not self.taken:
            self.is_booked_first = find_booking(self._trainer, self._accounting) is not None
        self.taken.append({name: to_vector(p.grad, self._most_values) for name, p in parameters.items()})
        self._ends.append(len(self.examples.loads))

    def split_loads(self) -> list[list[list[int]]]:
        """Return by step the rows of each physical batch."""
        return [self.examples.loads[low:high] for low, high in zip([0, *self._ends], self._ends, strict=False)]


def find_booking(trainer: ReleaseRecords, accounting: AccountingContext) -> Booking | None:
    """Return the open booking of a run and purpose in the trainer's ledger."""
    entries = verify_ledger(get_ledger_path(accounting.folder, trainer.budget.dataset))
    return find_open_booking(entries, accounting.run, accounting.purpose)


def to_vector(tensor: Tensor | None, most_values: int | None = None) -> np.ndarray:
    """Return the values of a tensor, float64 [n], or some that are spread over it."""
    assert tensor is not None  # noqa: S101 - every trained weight has a noised gradient
    flat = tensor.detach().reshape(-1)
    stride = 1 if most_values is None else math.ceil(flat.numel() / most_values)
    found: np.ndarray = flat[::stride].double().cpu().numpy()
    return found
