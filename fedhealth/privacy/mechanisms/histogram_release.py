"""Noise for score histograms and tables that may leave a private site once, at the end of the run.

Each unit (patient or study) counts with one study, so adding or removing a unit changes a label's histograms by one
count: an L2 sensitivity of sqrt(K) for K score columns. A unit is in one split, so validation and test together have
the same sensitivity. A test unit also counts in one subgroup of each grouping variable: the scores of all units and
those by subgroup are released together, each with its share of the squared signal-to-noise ratio of the booked event.
Nothing is rounded to whole counts or cut off here: that would bias the sums over sites.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch

from fedhealth.errors import PrivacyError
from fedhealth.privacy.mechanisms.gaussian_noise import NoiseSource
from fedhealth.privacy.mechanisms.noised_counts import NOISE, encode_counts

DESCRIPTIVE_PREFIX = "describe."
"""Prefix of the names of descriptive statistics."""
SUBGROUP_PREFIX = "groups."
"""Prefix of the names of score histograms by subgroup; the rest is the variable."""


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


def compute_histogram_sensitivity(columns: int, variables: int = 0) -> float:
    """Return the L2 sensitivity of all score histograms together where all of them have the same noise.

    A unit adds one count for each score column, and the same once more for each variable that defines subgroups. Of the
    unit `record`, a blank study keeps its place among those of its patient (docs/privacy.md, "Units").
    """
    return math.sqrt(columns * (1 + variables))


def compute_table_sensitivity(tables: int, moved: int) -> float:
    """Return the L2 sensitivity of tables of counts, of each of which a unit changes `moved` counts by one."""
    return math.sqrt(moved * tables)


def count_moved(unit: str) -> int:
    """Return how many counts of a table one unit changes.

    Without one of its studies, a patient may count by another: one count less in a bin, one more in another.
    """
    return 1 if unit == "patient" else 2


def noise_histograms(
    histograms: Mapping[str, np.ndarray], noise_multiplier: float, noise: NoiseSource, subgroup_share: float = 0.0
) -> dict[str, np.ndarray]:
    """Return the histograms with Gaussian noise, raw, and for each split the variance of its noise (`noised_counts`).

    Args:
        histograms: everything that is released at once: `<split>.<side>`, each int64 [K, cells], and by subgroup
            `groups.<variable>`, each int64 [2, groups, K, cells].
        noise_multiplier: noise multiplier of the booked event.
        noise: the cryptographic source.
        subgroup_share: the part of the event's squared signal-to-noise ratio that the tables by subgroup share.

    Raises:
        PrivacyError: there are tables by subgroup, but no part for them, or none for the others.

    """
    variables = sum(name.startswith(SUBGROUP_PREFIX) for name in histograms)
    if variables and not 0 < subgroup_share < 1:
        raise PrivacyError(f"a subgroup release share of {subgroup_share} is not in (0, 1)", "Use about 0.5.")
    released = {}
    for name, counts in histograms.items():
        by_subgroup = name.startswith(SUBGROUP_PREFIX)
        share = subgroup_share / variables if by_subgroup else 1 - subgroup_share if variables else 1.0
        std = noise_multiplier * math.sqrt(counts.shape[-2] / share)
        released[name] = _noise_counts(counts, std, noise)
        released[f"{name.partition('.')[0]}.{NOISE}"] = encode_counts(np.array([std**2]))
    return released


def noise_tables(
    counts: Mapping[str, np.ndarray], noise_multiplier: float, moved: int, noise: NoiseSource
) -> dict[str, np.ndarray]:
    """Return the tables with Gaussian noise, raw, and the variance of the noise (`noised_counts`).

    Args:
        counts: everything that is released at once, by name.
        noise_multiplier: noise multiplier of the booked event.
        moved: how many counts of a table one unit can change, each by one.
        noise: the cryptographic source.

    """
    std = noise_multiplier * compute_table_sensitivity(len(counts), moved)
    released = {name: _noise_counts(table, std, noise) for name, table in counts.items()}
    return released | {DESCRIPTIVE_PREFIX + NOISE: encode_counts(np.array([std**2]))}


def _noise_counts(counts: np.ndarray, std: float, noise: NoiseSource) -> np.ndarray:
    return encode_counts(noise.add_(torch.from_numpy(counts.astype(np.float64)), std).numpy())
