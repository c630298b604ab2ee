"""Poisson sampling of patients, over a fixed number of steps, from a cryptographic source.

Every patient is in a step's batch independently, with the same public sample rate. So a batch may be empty: it is still
a step, of noise alone, and it is booked. A patient's rows are never split over two physical batches, because clipping
acts on their sum.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedhealth.errors import PrivacyError


@dataclass(frozen=True)
class PhysicalBatch:
    """Rows to load together, and the patient of each row."""

    rows: list[int]
    patients: list[int]


class PatientSampler:
    """Yield the physical batches of every step; none for an empty draw.

    Args:
        rows_of_patient: the row numbers of each patient, in patient order.
        sample_rate: probability in (0, 1] with which a patient is drawn in a step.
        steps: number of steps; fixed, so that it reveals nothing.
        max_records_per_patient: studies of a patient used in one step; chosen at random if there are more.
        max_physical_batch_size: the most rows loaded at a time, unless a single patient has more.

    Raises:
        PrivacyError: the sample rate is outside (0, 1], or a limit is below 1.

    """

    def __init__(
        self,
        rows_of_patient: Sequence[Sequence[int]],
        *,
        sample_rate: float,
        steps: int,
        max_records_per_patient: int,
        max_physical_batch_size: int,
    ) -> None:
        if not 0 < sample_rate <= 1 or min(steps, max_records_per_patient, max_physical_batch_size) < 1:
            raise PrivacyError(
                f"cannot sample with sample rate {sample_rate}, {steps} steps, {max_records_per_patient} records per "
                f"patient and physical batches of {max_physical_batch_size}",
                "The sample rate must be in (0, 1] and the others at least 1.",
            )
        self._rows = [list(rows) for rows in rows_of_patient]
        self._sample_rate, self._steps = sample_rate, steps
        self._max_rows, self._max_physical_batch_size = max_records_per_patient, max_physical_batch_size

    def __len__(self) -> int:
        return self._steps

    def __iter__(self) -> Iterator[list[PhysicalBatch]]:
        for _ in range(self._steps):
            drawn = np.flatnonzero(_draw_uniforms(len(self._rows)) < self._sample_rate)
            yield list(self._pack_batches(drawn.tolist()))

    def _pack_batches(self, drawn: list[int]) -> Iterator[PhysicalBatch]:
        rows: list[int] = []
        patients: list[int] = []
        for patient in drawn:
            chosen = self._cap_records(self._rows[patient])
            if rows and len(rows) + len(chosen) > self._max_physical_batch_size:
                yield PhysicalBatch(rows, patients)
                rows, patients = [], []
            rows += chosen
            patients += [patient] * len(chosen)
        if rows:
            yield PhysicalBatch(rows, patients)

    def _cap_records(self, rows: list[int]) -> list[int]:
        if len(rows) <= self._max_rows:
            return rows
        order = np.argsort(_draw_uniforms(len(rows)))[: self._max_rows]
        return [rows[i] for i in sorted(order)]


def _draw_uniforms(count: int) -> NDArray[np.floating[Any]]:
    """Return [count] uniforms in [0, 1), 53 bits each, from the operating system."""
    return (np.frombuffer(os.urandom(8 * count), np.uint64) >> np.uint64(11)) * 2.0**-53
