"""Noise for score histograms and tables that may leave a private site once, at the end of the run.

Each unit (patient or study) counts with one study, so adding or removing a unit changes a label's histograms by one
count: an L2 sensitivity of sqrt(K) for K score columns. A unit is in one split, so validation and test together have
the same sensitivity. Rounding and removing negative counts after the noise is post-processing and costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch

from fedhealth.privacy.mechanisms.gaussian_noise import NoiseSource

NOISED_BINS = 48
"""Number of bins that noise is added to; fewer than the bins that are sent, so that the total noise is less."""


def select_studies_per_patient(
    study: np.ndarray, patient: np.ndarray, rows: np.ndarray, max_studies: int
) -> np.ndarray:
    """Return the rows of every patient's first studies, the same on every call.

    Args:
        study: number of the study of every row of the data set.
        patient: number of its patient.
        rows: the rows to select from.
        max_studies: the most studies of one patient.

    """
    first: dict[int, list[int]] = {}
    for row in rows:
        chosen = first.setdefault(int(patient[row]), [])
        if len(chosen) < max_studies and int(study[row]) not in chosen:
            chosen.append(int(study[row]))
    return rows[[int(study[row]) in first[int(patient[row])] for row in rows]] if len(rows) else rows


def noise_histograms(
    histograms: Mapping[str, np.ndarray], noise_multiplier: float, noise: NoiseSource
) -> dict[str, np.ndarray]:
    """Return the histograms, each int64 [K, bins], with Gaussian noise.

    Args:
        histograms: everything that is released at once, by name.
        noise_multiplier: noise multiplier of the booked event.
        noise: the cryptographic source.

    """
    return {
        name: _noise_histogram(counts, noise_multiplier * math.sqrt(len(counts)), noise)
        for name, counts in histograms.items()
    }


def _noise_histogram(counts: np.ndarray, std: float, noise: NoiseSource) -> np.ndarray:
    bins = counts.shape[1]
    cells = min(NOISED_BINS, bins)
    cell = np.arange(bins) * cells // bins
    coarse = np.zeros((len(counts), cells), np.float32)
    np.add.at(coarse.T, cell, counts.T.astype(np.float32))
    released = noise.add_(torch.from_numpy(coarse), std).numpy().astype(np.float64)
    middle = np.array([round(np.flatnonzero(cell == number).mean()) for number in range(cells)])
    sent = np.zeros(counts.shape, np.int64)
    for row, values in zip(sent, released, strict=True):
        row[middle] = np.rint(_project_to_counts(values))
    return sent


def _project_to_counts(values: np.ndarray) -> np.ndarray:
    """Return the nearest counts [cells] that are not negative and have the same sum (if that is positive).

    Only cutting off negative values would leave a floor of noise in every empty cell.
    """
    total = max(float(values.sum()), 0.0)
    descending = np.sort(values)[::-1]
    excess = (np.cumsum(descending) - total) / np.arange(1, len(values) + 1)
    last = int(np.flatnonzero(descending > excess)[-1]) if total > 0 else 0
    return np.maximum(values - excess[last], 0.0) if total > 0 else np.zeros(len(values))


DESCRIPTIVE_PREFIX = "describe."
"""Prefix of the names of descriptive statistics."""


def noise_tables(
    counts: Mapping[str, np.ndarray], noise_multiplier: float, moved: int, noise: NoiseSource
) -> dict[str, np.ndarray]:
    """Return the tables with Gaussian noise, rounded; counts may become negative, so that sums are unbiased.

    Args:
        counts: everything that is released at once, by name.
        noise_multiplier: noise multiplier of the booked event.
        moved: how many counts of a table one unit can change, each by one.
        noise: the cryptographic source.

    """
    std = noise_multiplier * math.sqrt(moved * len(counts))
    return {
        name: np.rint(noise.add_(torch.from_numpy(table.astype(np.float32)), std).numpy()).astype(np.int64)
        for name, table in counts.items()
    }
