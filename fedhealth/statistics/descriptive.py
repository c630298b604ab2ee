"""Descriptive statistics of the patients before training: counts in public bins, summed over hospitals.

Each patient counts once, by the first study: adding or removing a patient changes each table by one count, and all V
tables together by an L2 distance of sqrt(V). With differential privacy the noise is scaled to this sensitivity.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from fedhealth.config.capabilities import is_private_trainer
from fedhealth.config.schema import ColumnKind, Config, DataConfig, TaskKind
from fedhealth.data.dataset import SiteDataset
from fedhealth.data.tabular import count_features
from fedhealth.privacy.mechanisms.histogram_release import DESCRIPTIVE_PREFIX
from fedhealth.privacy.mechanisms.noised_counts import NOISE

REACH = 4.0  # numeric variables: bins from center - 4 scale to center + 4 scale, open beyond
_STEPS, _NOISED_STEPS = 80, 32  # fewer bins hold less noise together
MODALITIES = ("image", "text", "tabular")


@dataclass(frozen=True)
class Quantity:
    """One table of counts.

    Attributes:
        name: unique, such as `label.severe`, `coverage.text`, `variable.age`.
        bins: names of the bins, missing values last; for a numeric variable only the bins outside the edges.
        edges: of a numeric variable's bins, in its own unit; empty for named bins.

    """

    name: str
    bins: tuple[str, ...]
    edges: tuple[float, ...] = ()

    @property
    def size(self) -> int:
        """Number of bins."""
        return len(self.edges) + 2 if self.edges else len(self.bins)


def list_quantities(config: Config) -> tuple[Quantity, ...]:
    """Return the quantities that a configuration counts."""
    return (*_list_labels(config.data), *_list_coverage(), *_list_variables(config.data, count_steps(config)))


def count_steps(config: Config) -> int:
    """Return the number of bins between the outer edges of a numeric variable."""
    return _NOISED_STEPS if is_private_trainer(config.privacy) else _STEPS


def get_descriptive_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Return the shape of each table, and with differential privacy that of the variance of its noise."""
    shapes: dict[str, tuple[int, ...]] = {
        DESCRIPTIVE_PREFIX + each.name: (each.size,) for each in list_quantities(config)
    }
    if is_private_trainer(config.privacy):
        shapes[DESCRIPTIVE_PREFIX + NOISE] = (1,)
    return shapes


def count_patients(cohort: SiteDataset, config: Config) -> dict[str, np.ndarray]:
    """Return a site's counts of patients by table, int64."""
    _, rows = np.unique(cohort.patient, return_index=True)
    places = dict(_bin_patients(cohort, config.data, rows, count_steps(config)))
    return {
        DESCRIPTIVE_PREFIX + each.name: np.bincount(places[each.name], minlength=each.size)
        for each in list_quantities(config)
    }


def suppress_small_counts(counts: Mapping[str, np.ndarray], least: int) -> dict[str, np.ndarray]:
    """Return the tables with counts below `least` set to zero, for a site whose own counts the lead can see."""
    return {name: np.where(table < least, 0, table) for name, table in counts.items()}


def _list_labels(data: DataConfig) -> Iterator[Quantity]:
    two = ("no", "yes") if data.task.kind is TaskKind.multilabel else tuple(data.task.classes)
    for name in data.columns.labels:
        yield Quantity(f"label.{name}", (*two, "unknown"))


def _list_coverage() -> Iterator[Quantity]:
    for name in MODALITIES:
        yield Quantity(f"coverage.{name}", ("present", "missing"))


def _list_variables(data: DataConfig, steps: int) -> Iterator[Quantity]:
    for name, column in data.tabular.items():
        if column.kind is ColumnKind.categorical:
            yield Quantity(f"variable.{name}", (*column.levels, "missing"))
        else:
            edges = column.center + column.scale * np.linspace(-REACH, REACH, steps + 1)
            yield Quantity(f"variable.{name}", ("below", "above", "missing"), tuple(edges.tolist()))


def _bin_patients(
    cohort: SiteDataset, data: DataConfig, rows: np.ndarray, steps: int
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield each table's name and the bin of every patient, int64."""
    for column, name in enumerate(data.columns.labels):
        labels = cohort.labels[rows, column]
        unknown = 2 if data.task.kind is TaskKind.multilabel else len(data.task.classes)
        yield f"label.{name}", np.where(np.isnan(labels), unknown, np.nan_to_num(labels)).astype(np.int64)
    has_text = np.array([bool(cohort.texts[row]) for row in rows], bool)
    present = {"image": cohort.image_index[rows] >= 0, "text": has_text, "tabular": cohort.tabular_present[rows]}
    for name, held in present.items():
        yield f"coverage.{name}", (~held).astype(np.int64)
    start = 0
    for name, variable in data.tabular.items():
        size = count_features({name: variable})
        block = cohort.tabular[rows, start : start + size]
        start += size
        missing = block[:, -1] == 1
        if variable.kind is ColumnKind.categorical:
            yield f"variable.{name}", np.where(missing, size - 1, block[:, :-1].argmax(axis=1))
        else:
            # below, bins, above, missing
            edges = np.linspace(-REACH, REACH, steps + 1)
            inside = np.searchsorted(edges, block[:, 0].astype(np.float64) + 1e-6, side="right")
            yield f"variable.{name}", np.where(missing, steps + 2, inside)
