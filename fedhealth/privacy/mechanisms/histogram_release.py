"""Score histograms that may leave a private site: noised once, at the end of the run.

Each unit (patient or study) counts with one study, so adding or removing one moves the histograms of a label by one
count: an L2 sensitivity of sqrt(K) for K score columns. A unit is in one split, so validation and test together have
the same sensitivity. What follows the noise (no negative counts, whole numbers) costs nothing more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch

from fedhealth.privacy.mechanisms.gaussian_noise import NoiseSource

CELLS = 48
"""Bins that are noised, of the finer ones that are sent: fewer bins, less noise in all."""


def one_study_each(study: np.ndarray, patient: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the rows of every patient's first study; int64 arrays, `rows` indexes the others."""
    first: dict[int, int] = {}
    for row in rows:
        first.setdefault(int(patient[row]), int(study[row]))
    return rows[[first[int(patient[row])] == study[row] for row in rows]] if len(rows) else rows


def noised(histograms: Mapping[str, np.ndarray], sigma: float, noise: NoiseSource) -> dict[str, np.ndarray]:
    """Return the histograms, each int64 [K, bins], with Gaussian noise.

    Args:
        histograms: all that is released at once; by name.
        sigma: noise multiplier of the booked event.
        noise: the cryptographic source.

    """
    return {name: _noised(counts, sigma * math.sqrt(len(counts)), noise) for name, counts in histograms.items()}


def _noised(counts: np.ndarray, std: float, noise: NoiseSource) -> np.ndarray:
    bins = counts.shape[1]
    cells = min(CELLS, bins)
    cell = np.arange(bins) * cells // bins
    coarse = np.zeros((len(counts), cells), np.float32)
    np.add.at(coarse.T, cell, counts.T.astype(np.float32))
    released = noise.add_(torch.from_numpy(coarse), std).numpy().astype(np.float64)
    middle = np.array([round(np.flatnonzero(cell == number).mean()) for number in range(cells)])
    sent = np.zeros(counts.shape, np.int64)
    for row, values in zip(sent, released, strict=True):
        row[middle] = np.rint(_plausible(values))
    return sent


def _plausible(values: np.ndarray) -> np.ndarray:
    """Return the nearest counts [cells] that are not negative and have the same sum (if that is positive).

    Cutting negative values off alone would leave a floor of noise in every empty cell.
    """
    total = max(float(values.sum()), 0.0)
    descending = np.sort(values)[::-1]
    excess = (np.cumsum(descending) - total) / np.arange(1, len(values) + 1)
    last = int(np.flatnonzero(descending > excess)[-1]) if total > 0 else 0
    return np.maximum(values - excess[last], 0.0) if total > 0 else np.zeros(len(values))


PREFIX = "describe."  # of the statistics' names


def noised_tables(
    counts: Mapping[str, np.ndarray], sigma: float, moved: int, noise: NoiseSource
) -> dict[str, np.ndarray]:
    """Return the tables with Gaussian noise, rounded; counts may become negative, so that sums stay unbiased.

    Args:
        counts: all that is released at once, by name.
        sigma: noise multiplier of the booked event.
        moved: how many counts of a table one unit can move, each by one.
        noise: the cryptographic source.

    """
    std = sigma * math.sqrt(moved * len(counts))
    return {
        name: np.rint(noise.add_(torch.from_numpy(table.astype(np.float32)), std).numpy()).astype(np.int64)
        for name, table in counts.items()
    }
