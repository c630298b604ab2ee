"""Poisson sampling of patients, over a fixed number of steps, from a cryptographic source.

Every patient is in a step's batch independently with the same public rate. A batch may therefore be empty: that is a
step like any other, of noise alone, and it is booked. A patient's rows are never split over two physical batches, as
clipping acts on their sum.
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
    """Rows to load together, and the patient of each."""

    rows: list[int]
    patients: list[int]


class PatientSampler:
    """Yields, for every step, its physical batches; none for an empty draw.

    Args:
        rows_of_patient: the row numbers of each patient, in patient order.
        rate: probability in (0, 1] with which a patient is drawn in a step.
        steps: how many steps; fixed, so that it reveals nothing.
        max_rows: studies of a patient used in one step; a random choice when there are more.
        physical_rows: the most rows loaded at a time, unless one patient alone has more.

    Raises:
        PrivacyError: for a rate outside (0, 1] or a limit below 1.

    """

    def __init__(
        self,
        rows_of_patient: Sequence[Sequence[int]],
        *,
        rate: float,
        steps: int,
        max_rows: int,
        physical_rows: int,
    ) -> None:
        if not 0 < rate <= 1 or min(steps, max_rows, physical_rows) < 1:
            raise PrivacyError(
                f"cannot sample with rate {rate}, {steps} steps, {max_rows} rows a patient, {physical_rows} at a time",
                "The rate must be in (0, 1] and the others at least 1.",
            )
        self._rows = [list(rows) for rows in rows_of_patient]
        self._rate, self._steps = rate, steps
        self._max_rows, self._physical_rows = max_rows, physical_rows

    def __len__(self) -> int:
        return self._steps

    def __iter__(self) -> Iterator[list[PhysicalBatch]]:
        for _ in range(self._steps):
            drawn = np.flatnonzero(_uniform(len(self._rows)) < self._rate)
            yield list(self._packed([int(patient) for patient in drawn]))

    def _packed(self, drawn: list[int]) -> Iterator[PhysicalBatch]:
        rows: list[int] = []
        patients: list[int] = []
        for patient in drawn:
            chosen = self._capped(self._rows[patient])
            if rows and len(rows) + len(chosen) > self._physical_rows:
                yield PhysicalBatch(rows, patients)
                rows, patients = [], []
            rows += chosen
            patients += [patient] * len(chosen)
        if rows:
            yield PhysicalBatch(rows, patients)

    def _capped(self, rows: list[int]) -> list[int]:
        if len(rows) <= self._max_rows:
            return rows
        order = np.argsort(_uniform(len(rows)))[: self._max_rows]
        return [rows[i] for i in sorted(order)]


def _uniform(count: int) -> NDArray[np.floating[Any]]:
    """Return [count] uniforms in [0, 1), 53 bits each, from the operating system."""
    return (np.frombuffer(os.urandom(8 * count), np.uint64) >> np.uint64(11)) * 2.0**-53
