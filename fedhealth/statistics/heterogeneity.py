"""How hospitals differ, told in sums: every site puts a one into a public bin, and nobody learns whose it is.

The profile (prevalence, modalities, shift of features) states facts about a site's patients: it leaves only where
training is not private. The drift is computed from the update as it leaves, so it may leave under any promise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from fedhealth.config.schema import ColumnKind, DataConfig, TaskKind
from fedhealth.data.dataset import Cohort
from fedhealth.models.model_state import norm_of
from fedhealth.types import State

PROFILE = "sites."  # prefix of the profile's tables among the statistics
DRIFT = "drift.squares"  # the sum of the sites' squared update norms, in units of 1 / DRIFT_UNIT
DRIFT_UNIT = 2**20
_IMAGES = 200  # looked at for brightness and contrast


@dataclass(frozen=True)
class Table:
    """One quantity: a row of bins for each of `rows`, divided at `edges` (ascending), open at both ends."""

    name: str
    rows: tuple[str, ...]
    edges: tuple[float, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of its counts."""
        return len(self.rows), len(self.edges) + 1


def tables(data: DataConfig, modalities: frozenset[str]) -> tuple[Table, ...]:
    """Return what is compared between the hospitals of a configuration."""
    classes = data.task.classes[1:] if data.task.kind is TaskKind.binary else data.task.classes
    found = [
        Table("rows", ("training rows",), tuple(2.0**power for power in range(5, 18))),
        Table("prevalence", tuple(classes), tuple(np.geomspace(1e-3, 1, 16)[:-1].tolist())),
        Table("coverage", tuple(sorted(modalities)), (0.001, 0.1, 0.25, 0.5, 0.75, 0.9, 0.999)),
    ]
    if "image" in modalities:
        found.append(Table("image", ("mean", "contrast"), tuple(float(edge) for edge in range(10, 250, 10))))
    if "text" in modalities:
        found.append(Table("text", ("words",), tuple(2.0**power for power in range(1, 12))))
    if "tabular" in modalities and (numeric := tuple(_numeric(data))):
        found.append(Table("tabular", tuple(name for name, _ in numeric), tuple(np.arange(-2, 2.25, 0.25).tolist())))
    return tuple(found)


def shapes(data: DataConfig, modalities: frozenset[str]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of everything a site says about heterogeneity in a round."""
    return {PROFILE + table.name: table.shape for table in tables(data, modalities)} | {DRIFT: (1,)}


def profile(cohort: Cohort, data: DataConfig, modalities: frozenset[str]) -> dict[str, np.ndarray]:
    """Return a site's ones, int64, by table; a quantity it has no data for is nowhere."""
    measured = _measured(cohort, data, modalities)
    found = {}
    for table in tables(data, modalities):
        counts = np.zeros(table.shape, np.int64)
        for row, value in enumerate(measured[table.name]):
            if not np.isnan(value):
                counts[row, int(np.searchsorted(table.edges, value, side="right"))] = 1
        found[PROFILE + table.name] = counts
    return found


def drift(update: State) -> dict[str, np.ndarray]:
    """Return the squared norm of an update as it leaves the site."""
    return {DRIFT: np.array([round(min(norm_of(update) ** 2, 2.0**28) * DRIFT_UNIT)], np.int64)}


def divergence(statistics: Mapping[str, np.ndarray], mean: State, sites: int) -> float | None:
    """Return how far the sites' updates point apart: mean squared norm over the squared norm of the mean update.

    1 where all send the same; about the number of sites where the updates are at right angles; more where they
    contradict each other. None where it is not known.
    """
    length = norm_of(mean) ** 2
    if DRIFT not in statistics or not sites or not length:
        return None
    return float(statistics[DRIFT][0]) / DRIFT_UNIT / sites / length


def _measured(cohort: Cohort, data: DataConfig, modalities: frozenset[str]) -> dict[str, list[float]]:
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
        "prevalence": [_mean(column[~np.isnan(column)]) for column in labels.T],
        "coverage": [_mean(present[name]) for name in sorted(modalities)],
        "image": _look(cohort, rows),
        "text": [_mean(np.array(words))],
        "tabular": [_mean(cohort.tabular[rows, at][cohort.tabular[rows, at + 1] == 0]) for _, at in _numeric(data)],
    }


def _look(cohort: Cohort, rows: np.ndarray) -> list[float]:
    """Return mean and standard deviation of grey values over some training images."""
    stored = cohort.image_index[rows]
    stored = stored[stored >= 0]
    if not len(stored):
        return [float("nan")] * 2
    some = np.unique(stored[np.linspace(0, len(stored) - 1, min(_IMAGES, len(stored))).astype(int)])
    pixels = np.asarray(cohort.images[some], np.float32)
    pixels /= 257 if cohort.images.dtype == np.uint16 else 1
    return [float(pixels.mean()), float(pixels.std())]


def _numeric(data: DataConfig) -> Iterator[tuple[str, int]]:
    """Yield each numeric variable and the feature that holds its scaled value; whether it is missing comes after."""
    at = 0
    for name, column in data.tabular.items():
        if column.kind is ColumnKind.numeric:
            yield name, at
            at += 2
        else:
            at += len(column.levels) + 1


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")
