"""Does the model serve all groups of patients alike? Score histograms by group, summed over hospitals.

Small cells are suppressed where they arise: a site with a group of fewer than `evaluation.min_group` test patients says
nothing at all of that variable, since the difference to its other counts would show the small group.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from fedhealth.config.schema import ColumnKind, Config, TabularColumnConfig
from fedhealth.data.dataset import Cohort
from fedhealth.data.tabular import width
from fedhealth.evaluation import metrics
from fedhealth.evaluation.metrics import Estimate
from fedhealth.evaluation.predictions import Predictions, ScoreCounts, count, drawn_counts
from fedhealth.models.multimodal import output_width

PREFIX = "groups."  # of the statistics' names
UNKNOWN = -1
SHOWN = ("auroc", "balanced_accuracy", "calibration_error")


@dataclass(frozen=True)
class Variable:
    """What patients are grouped by: a column of the manifest, and its groups' names in order."""

    name: str
    groups: tuple[str, ...]


def variables(config: Config) -> tuple[Variable, ...]:
    """Return the configured variables."""
    columns = config.data.tabular
    return tuple(Variable(name, _groups(columns[name], edges)) for name, edges in config.evaluation.subgroups.items())


def shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Return the shape of every table: with and without the class, groups, score columns, bins."""
    columns, bins = output_width(config.data), config.evaluation.bins
    return {PREFIX + each.name: (2, len(each.groups), columns, bins) for each in variables(config)}


def membership(cohort: Cohort, config: Config) -> dict[str, np.ndarray]:
    """Return by variable each row's group, int64 [N]; UNKNOWN where the cell is empty."""
    found, start = {}, 0
    for name, column in config.data.tabular.items():
        size = width({name: column})
        block = cohort.tabular[:, start : start + size]
        start += size
        if name in config.evaluation.subgroups:
            found[name] = _places(block, column, config.evaluation.subgroups[name])
    return found


def count_groups(predictions: Predictions, groups: Mapping[str, np.ndarray], config: Config) -> dict[str, np.ndarray]:
    """Return the tables that a site may add to the sum, int64; zeros where it has a small group.

    Args:
        predictions: of test studies.
        groups: by variable, each study's group.
        config: names the variables, the bins and the smallest group.

    """
    bins, tables = config.evaluation.bins, {}
    labelled = ~np.isnan(predictions.labels).all(axis=1)
    for name, shape in shapes(config).items():
        places, table = groups[name.removeprefix(PREFIX)], np.zeros(shape, np.int64)
        if not _small(places[labelled], predictions.patient[labelled], config.evaluation.min_group):
            for group in range(shape[1]):
                counts = count(_only(predictions, places == group), bins)
                table[:, group] = counts.positives, counts.negatives
        tables[name] = table
    return tables


def judged(tables: Mapping[str, np.ndarray], config: Config) -> list[dict[str, object]]:
    """Return for every variable its groups' scores, and how far the best and the worst group are apart; for JSON.

    A group of fewer than `evaluation.min_group` studies with or without the class has no scores.
    """
    return [
        _variable(each, tables[PREFIX + each.name], config)
        for each in variables(config)
        if PREFIX + each.name in tables
    ]


def _variable(variable: Variable, table: np.ndarray, config: Config) -> dict[str, object]:
    rows, draws = [], []
    resamples, least = config.evaluation.bootstrap, config.evaluation.min_group
    for place, group in enumerate(variable.groups):
        counts = ScoreCounts(table[0, place], table[1, place])
        studies = int(counts.positives[0].sum() + counts.negatives[0].sum())
        large = min(int(side.sum(axis=1).max()) for side in (counts.positives, counts.negatives)) >= least
        found = drawn_counts(counts, resamples, config.seed + place) if large else {}
        draws += [found["auroc"]] if large and not np.isnan(found["auroc"][0]) else []
        scores = {name: _estimate(found[name]) if large else None for name in SHOWN}
        rows.append({"group": group, "studies": studies if studies >= least else None, **scores})
    draws.sort(key=lambda drawn: float(drawn[0]))
    gap = _estimate(draws[-1] - draws[0]) if len(draws) > 1 else None
    return {"variable": variable.name, "groups": rows, "gap": gap}


def _estimate(drawn: np.ndarray) -> dict[str, float | None]:
    found: Estimate = metrics.estimate(drawn[1:], float(drawn[0]))
    return found.as_dict()


def _groups(column: TabularColumnConfig, edges: list[float]) -> tuple[str, ...]:
    """Return the levels, or the bands between edges: `below 40`, `40 to 60`, `60 or more`."""
    if column.kind is ColumnKind.categorical:
        return tuple(column.levels)
    between = [f"{low:g} to {high:g}" for low, high in pairwise(edges)]
    return (f"below {edges[0]:g}", *between, f"{edges[-1]:g} or more")


def _places(block: np.ndarray, column: TabularColumnConfig, edges: list[float]) -> np.ndarray:
    missing = block[:, -1] == 1
    if column.kind is ColumnKind.categorical:
        return np.where(missing, UNKNOWN, block[:, :-1].argmax(axis=1))
    values = block[:, 0].astype(np.float64) * column.scale + column.center
    # features are float32: a value on an edge belongs above it, whatever its last bit
    return np.where(missing, UNKNOWN, np.searchsorted(edges, values + 1e-5 * column.scale, side="right"))


def _small(places: np.ndarray, patient: np.ndarray, least: int) -> bool:
    return any(0 < len(np.unique(patient[places == group])) < least for group in np.unique(places))


def _only(predictions: Predictions, chosen: np.ndarray) -> Predictions:
    return Predictions(predictions.scores[chosen], predictions.labels[chosen], predictions.patient[chosen])
