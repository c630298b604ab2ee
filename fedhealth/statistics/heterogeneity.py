"""Heterogeneity between hospitals as sums: each site sends one-hot counts in public bins, and only the sum is visible.

The site profile (prevalence, modalities, feature shift) contains facts about a site's patients, so it leaves only if
training is not private. The drift is computed from the update as it leaves, so it needs no further protection.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from fedhealth.config.schema import ColumnKind, DataConfig, TaskKind
from fedhealth.data.dataset import SiteDataset
from fedhealth.models.model_state import compute_l2_norm
from fedhealth.types import State

PROFILE = "sites."  # prefix of the profile's tables among the statistics
DRIFT = "drift.squares"  # the sum of the sites' squared update norms, in units of 1 / DRIFT_UNIT
DRIFT_UNIT = 2**20
_IMAGES = 200  # measured for brightness and contrast


@dataclass(frozen=True)
class HeterogeneityTable:
    """One quantity: a row of bins for each of `rows`, with ascending `edges`, open at both ends."""

    name: str
    rows: tuple[str, ...]
    edges: tuple[float, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the counts."""
        return len(self.rows), len(self.edges) + 1


def list_heterogeneity_tables(data: DataConfig, modalities: frozenset[str]) -> tuple[HeterogeneityTable, ...]:
    """Return the quantities that are compared between hospitals."""
    classes = data.task.classes[1:] if data.task.kind is TaskKind.binary else data.task.classes
    found = [
        HeterogeneityTable("rows", ("training rows",), tuple(2.0**power for power in range(5, 18))),
        HeterogeneityTable("prevalence", tuple(classes), tuple(np.geomspace(1e-3, 1, 16)[:-1].tolist())),
        HeterogeneityTable("coverage", tuple(sorted(modalities)), (0.001, 0.1, 0.25, 0.5, 0.75, 0.9, 0.999)),
    ]
    if "image" in modalities:
        found.append(
            HeterogeneityTable("image", ("mean", "contrast"), tuple(float(edge) for edge in range(10, 250, 10)))
        )
    if "text" in modalities:
        found.append(HeterogeneityTable("text", ("words",), tuple(2.0**power for power in range(1, 12))))
    if "tabular" in modalities and (numeric := tuple(_list_numeric_columns(data))):
        found.append(
            HeterogeneityTable("tabular", tuple(name for name, _ in numeric), tuple(np.arange(-2, 2.25, 0.25).tolist()))
        )
    return tuple(found)


def get_heterogeneity_shapes(data: DataConfig, modalities: frozenset[str]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the heterogeneity statistics that a site sends in a round."""
    return {PROFILE + table.name: table.shape for table in list_heterogeneity_tables(data, modalities)} | {DRIFT: (1,)}


def compute_site_profile(cohort: SiteDataset, data: DataConfig, modalities: frozenset[str]) -> dict[str, np.ndarray]:
    """Return one-hot int64 counts per table; all zeros where the site has no data."""
    measured = _measure_site(cohort, data, modalities)
    found = {}
    for table in list_heterogeneity_tables(data, modalities):
        counts = np.zeros(table.shape, np.int64)
        for row, value in enumerate(measured[table.name]):
            if not np.isnan(value):
                counts[row, int(np.searchsorted(table.edges, value, side="right"))] = 1
        found[PROFILE + table.name] = counts
    return found


def compute_drift(norm: float) -> dict[str, np.ndarray]:
    """Return the squared norm of an update, from the L2 norm of what leaves the site."""
    return {DRIFT: np.array([round(min(norm**2, 2.0**28) * DRIFT_UNIT)], np.int64)}


def compute_divergence(statistics: Mapping[str, np.ndarray], mean: State, sites: int) -> float | None:
    """Return the divergence of the sites' updates: mean squared norm over the squared norm of the mean update.

    It is 1 if all updates are equal, about the number of sites if they are orthogonal, and larger if they oppose each
    other. None if it is not known; where the noise is shared, no site reports the norm of its own update.
    """
    length = compute_l2_norm(mean) ** 2
    if DRIFT not in statistics or not sites or not length or not statistics[DRIFT][0]:
        return None
    return float(statistics[DRIFT][0]) / DRIFT_UNIT / sites / length


def _measure_site(cohort: SiteDataset, data: DataConfig, modalities: frozenset[str]) -> dict[str, list[float]]:
    rows = cohort.rows("train")
    labels = cohort.labels[rows]
    if data.task.kind is TaskKind.multiclass:
        labels = (labels == np.arange(len(data.task.classes))).astype(np.float32)
    present = {
        "image": cohort.image_index[rows] >= 0,
        "text": np.array([bool(cohort.texts[row]) for row in rows]),
        "tabular": cohort.tabular_present[rows],
    }
    words = [len(cohort.texts[row].split()) for row in rows if cohort.texts[row]]
    return {
        "rows": [float(len(rows))],
        "prevalence": [_mean_or_nan(column[~np.isnan(column)]) for column in labels.T],
        "coverage": [_mean_or_nan(present[name]) for name in sorted(modalities)],
        "image": _measure_images(cohort, rows),
        "text": [_mean_or_nan(np.array(words))],
        "tabular": [
            _mean_or_nan(cohort.tabular[rows, at][cohort.tabular[rows, at + 1] == 0])
            for _, at in _list_numeric_columns(data)
        ],
    }


def _measure_images(cohort: SiteDataset, rows: np.ndarray) -> list[float]:
    """Return mean and standard deviation of the grey values of a sample of training images."""
    stored = cohort.image_index[rows]
    stored = stored[stored >= 0]
    if not len(stored):
        return [float("nan")] * 2
    some = np.unique(stored[np.linspace(0, len(stored) - 1, min(_IMAGES, len(stored))).astype(int)])
    pixels = np.asarray(cohort.images[some], np.float32)
    pixels /= 257 if cohort.images.dtype == np.uint16 else 1
    return [float(pixels.mean()), float(pixels.std())]


def _list_numeric_columns(data: DataConfig) -> Iterator[tuple[str, int]]:
    """Yield each numeric variable and the index of its scaled value; the missing indicator is the next feature."""
    at = 0
    for name, column in data.tabular.items():
        if column.kind is ColumnKind.numeric:
            yield name, at
            at += 2
        else:
            at += len(column.levels) + 1


def _mean_or_nan(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")
