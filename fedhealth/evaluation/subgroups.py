"""Evaluate the model by patient subgroup: score histograms by subgroup, summed over hospitals.

Sites suppress small cells: a site with a subgroup of fewer than `evaluation.min_group` test patients reports nothing
for that variable, because the difference to its other counts would reveal the small subgroup.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from fedhealth.config.schema import ColumnKind, Config, TabularColumnConfig
from fedhealth.data.dataset import SiteDataset
from fedhealth.data.tabular import count_features
from fedhealth.evaluation import metrics
from fedhealth.evaluation.metrics import Estimate
from fedhealth.evaluation.predictions import Predictions, ScoreHistograms, bootstrap_histogram_metrics, count_scores
from fedhealth.models.multimodal import get_output_width

PREFIX = "groups."  # of the statistics' names
UNKNOWN = -1
SHOWN = ("auroc", "balanced_accuracy", "calibration_error")


@dataclass(frozen=True)
class SubgroupVariable:
    """A variable that defines subgroups: a column of the manifest, and the names of its subgroups in order."""

    name: str
    groups: tuple[str, ...]


def list_subgroup_variables(config: Config) -> tuple[SubgroupVariable, ...]:
    """Return the configured subgroup variables."""
    columns = config.data.tabular
    return tuple(
        SubgroupVariable(name, _name_groups(columns[name], edges))
        for name, edges in config.evaluation.subgroups.items()
    )


def get_subgroup_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Return the shape of each table: with and without the class, subgroups, score columns, bins."""
    columns, bins = get_output_width(config.data), config.evaluation.bins
    return {PREFIX + each.name: (2, len(each.groups), columns, bins) for each in list_subgroup_variables(config)}


def assign_subgroups(cohort: SiteDataset, config: Config) -> dict[str, np.ndarray]:
    """Return the subgroup of each row by variable, int64 [N]; UNKNOWN if the cell is empty."""
    found, start = {}, 0
    for name, column in config.data.tabular.items():
        size = count_features({name: column})
        block = cohort.tabular[:, start : start + size]
        start += size
        if name in config.evaluation.subgroups:
            found[name] = _assign_groups(block, column, config.evaluation.subgroups[name])
    return found


def count_scores_by_subgroup(
    predictions: Predictions, groups: Mapping[str, np.ndarray], config: Config
) -> dict[str, np.ndarray]:
    """Return the tables that a site adds to the sum, int64; zeros for a variable with a small subgroup.

    Args:
        predictions: of test studies.
        groups: the subgroup of each study, by variable.
        config: sets the variables, the bins and the smallest subgroup.

    """
    bins, tables = config.evaluation.bins, {}
    labelled = ~np.isnan(predictions.labels).all(axis=1)
    for name, shape in get_subgroup_shapes(config).items():
        places, table = groups[name.removeprefix(PREFIX)], np.zeros(shape, np.int64)
        if not _has_small_group(places[labelled], predictions.patient[labelled], config.evaluation.min_group):
            for group in range(shape[1]):
                counts = count_scores(_select_predictions(predictions, places == group), bins)
                table[:, group] = counts.positives, counts.negatives
        tables[name] = table
    return tables


def evaluate_subgroups(tables: Mapping[str, np.ndarray], config: Config) -> list[dict[str, object]]:
    """Return the metrics of each variable's subgroups, and the gap between the best and the worst, for JSON.

    A subgroup with fewer than `evaluation.min_group` studies with or without the class has no metrics.
    """
    return [
        _evaluate_variable(each, tables[PREFIX + each.name], config)
        for each in list_subgroup_variables(config)
        if PREFIX + each.name in tables
    ]


def _evaluate_variable(variable: SubgroupVariable, table: np.ndarray, config: Config) -> dict[str, object]:
    rows, draws = [], []
    resamples, least = config.evaluation.bootstrap, config.evaluation.min_group
    for place, group in enumerate(variable.groups):
        counts = ScoreHistograms(table[0, place], table[1, place])
        studies = int(counts.positives[0].sum() + counts.negatives[0].sum())
        large = min(int(side.sum(axis=1).max()) for side in (counts.positives, counts.negatives)) >= least
        found = bootstrap_histogram_metrics(counts, resamples, config.seed + place) if large else {}
        draws += [found["auroc"]] if large and not np.isnan(found["auroc"][0]) else []
        scores = {name: _estimate_as_dict(found[name]) if large else None for name in SHOWN}
        rows.append({"group": group, "studies": studies if studies >= least else None, **scores})
    draws.sort(key=lambda drawn: float(drawn[0]))
    gap = _estimate_as_dict(draws[-1] - draws[0]) if len(draws) > 1 else None
    return {"variable": variable.name, "groups": rows, "gap": gap}


def _estimate_as_dict(drawn: np.ndarray) -> dict[str, float | None]:
    found: Estimate = metrics.estimate_interval(drawn[1:], float(drawn[0]))
    return found.as_dict()


def _name_groups(column: TabularColumnConfig, edges: list[float]) -> tuple[str, ...]:
    """Return the levels, or the ranges between edges: `below 40`, `40 to 60`, `60 or more`."""
    if column.kind is ColumnKind.categorical:
        return tuple(column.levels)
    between = [f"{low:g} to {high:g}" for low, high in pairwise(edges)]
    return (f"below {edges[0]:g}", *between, f"{edges[-1]:g} or more")


def _assign_groups(block: np.ndarray, column: TabularColumnConfig, edges: list[float]) -> np.ndarray:
    missing = block[:, -1] == 1
    if column.kind is ColumnKind.categorical:
        return np.where(missing, UNKNOWN, block[:, :-1].argmax(axis=1))
    values = block[:, 0].astype(np.float64) * column.scale + column.center
    # features are float32: a value on an edge belongs to the range above it, also after rounding
    return np.where(missing, UNKNOWN, np.searchsorted(edges, values + 1e-5 * column.scale, side="right"))


def _has_small_group(places: np.ndarray, patient: np.ndarray, least: int) -> bool:
    return any(0 < len(np.unique(patient[places == group])) < least for group in np.unique(places))


def _select_predictions(predictions: Predictions, chosen: np.ndarray) -> Predictions:
    return Predictions(predictions.scores[chosen], predictions.labels[chosen], predictions.patient[chosen])
