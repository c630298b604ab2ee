"""Bugs in who is drawn, and in what a physical batch holds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from benchmarks.mutants.subject import Bugs
from fedhealth.privacy.mechanisms import poisson_sampler
from fedhealth.privacy.mechanisms.poisson_sampler import PatientSampler, PhysicalBatch
from fedhealth.training import dpsgd_trainer
from fedhealth.training.private_batches import load_physical_batches


def _draw_once_per_round() -> Any:
    draw_steps = PatientSampler.__iter__

    def draw(self: PatientSampler) -> Iterator[list[PhysicalBatch]]:
        first = next(iter(draw_steps(self)))
        for _ in range(self._steps):
            yield first

    return patch.object(PatientSampler, "__iter__", draw)


def _draw_studies() -> Any:
    """Draw a patient if one of the studies is drawn."""

    def draw(self: PatientSampler) -> Iterator[list[PhysicalBatch]]:
        for _ in range(self._steps):
            chances = [poisson_sampler._draw_uniforms(len(rows)).min() for rows in self._rows]
            yield list(self._pack_batches([n for n, least in enumerate(chances) if least < self._sample_rate]))

    return patch.object(PatientSampler, "__iter__", draw)


def _shuffle_epochs() -> Any:
    def draw(self: PatientSampler) -> Iterator[list[PhysicalBatch]]:
        parts, generator = max(1, round(1 / self._sample_rate)), np.random.default_rng()
        left: list[list[int]] = []
        for _ in range(self._steps):
            left = left or [part.tolist() for part in np.array_split(generator.permutation(len(self._rows)), parts)]
            yield list(self._pack_batches(sorted(left.pop())))

    return patch.object(PatientSampler, "__iter__", draw)


def _seed_sampler() -> Any:
    def draw(self: PatientSampler) -> Iterator[list[PhysicalBatch]]:
        generator = np.random.default_rng(42)
        for _ in range(self._steps):
            drawn = np.flatnonzero(generator.random(len(self._rows)) < self._sample_rate)
            yield list(self._pack_batches(drawn.tolist()))

    return patch.object(PatientSampler, "__iter__", draw)


def _repeat_last_patient() -> Any:
    """Let the last patient of a physical batch open the next one, too."""

    def pack_rows(self: PatientSampler, drawn: list[int]) -> Iterator[PhysicalBatch]:
        rows: list[int] = []
        patients: list[int] = []
        for before, patient in zip([*drawn[:1], *drawn], drawn, strict=False):
            chosen = self._cap_records(self._rows[patient])
            if rows and len(rows) + len(chosen) > self._max_physical_batch_size:
                yield PhysicalBatch(rows, patients)
                rows = self._cap_records(self._rows[before])
                patients = [before] * len(rows)
            rows, patients = rows + chosen, patients + [patient] * len(chosen)
        if rows:
            yield PhysicalBatch(rows, patients)

    return patch.object(PatientSampler, "_pack_batches", pack_rows)


def _count_padding() -> Any:
    load = load_physical_batches

    def load_padded(examples: Any, physical: Iterable[PhysicalBatch], device: torch.device) -> Any:
        parts = []
        for part in physical:
            extra = -len(part.rows) % 8
            parts.append(PhysicalBatch(part.rows + part.rows[:1] * extra, part.patients + [-1] * extra))
        return load(examples, parts, device)

    return patch.object(dpsgd_trainer, "load_physical_batches", load_padded)


SAMPLING: Bugs = {
    "one batch for the whole round": (_draw_once_per_round, {}),
    "studies drawn, not patients": (_draw_studies, {}),
    "shuffled epochs": (_shuffle_epochs, {}),
    "a seeded sampler": (_seed_sampler, {}),
    "last patient in two micro-batches": (_repeat_last_patient, {}),
    "padding rows counted": (_count_padding, {}),
}
"""Planter, and settings of the trainer, by name."""
