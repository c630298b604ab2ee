"""Evaluate the model by patient subgroup: score histograms by subgroup, summed over hospitals.

Sites suppress small cells: a site with a subgroup of fewer than `evaluation.min_group` test patients reports nothing
for that variable, because the difference to its other counts would reveal the small subgroup. In a private run nothing
that leaves may depend on a group's exact size: every site sends noised counts, with their part of the booked release
(`privacy.subgroup_release_share`), and small groups are suppressed after the sum.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from fedhealth.config.capabilities import is_private_trainer
from fedhealth.config.schema import ColumnKind, Config, TabularColumnConfig
from fedhealth.data.dataset import SiteDataset
from fedhealth.data.tabular import count_features
from fedhealth.evaluation import metrics
from fedhealth.evaluation.metrics import LOGIT_LIMIT, PRIMARY_METRIC, Estimate
from fedhealth.evaluation.noised_scores import FEW_CELLS, LEAST_SIGNAL, NOISED_LOGIT_LIMIT
from fedhealth.evaluation.predictions import (
    Predictions,
    ScoreHistograms,
    bootstrap_histogram_auroc,
    bootstrap_histogram_metrics,
    compute_histogram_metrics,
    count_scores,
    describe_histogram_noise,
)
from fedhealth.models.multimodal import get_output_width
from fedhealth.privacy.mechanisms.histogram_release import SUBGROUP_PREFIX
from fedhealth.privacy.mechanisms.noised_counts import NOISE, decode_counts

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


def releases_subgroups(config: Config) -> bool:
    """Return whether sites send scores by subgroup: in a private run only if they have a part of its release."""
    if not is_private_trainer(config.privacy):
        return bool(config.evaluation.subgroups)
    return bool(config.evaluation.subgroups and config.privacy.get("subgroup_release_share"))


def get_subgroup_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Return the shape of each table: with and without the class, subgroups, score columns, bins; and of its noise."""
    if not releases_subgroups(config):
        return {}
    columns, bins = get_output_width(config.data), _get_bins(config)[0]
    tables = {
        SUBGROUP_PREFIX + each.name: (2, len(each.groups), columns, bins) for each in list_subgroup_variables(config)
    }
    return tables | ({SUBGROUP_PREFIX + NOISE: (1,)} if is_private_trainer(config.privacy) else {})


def _get_bins(config: Config) -> tuple[int, float]:
    """Return the number of bins and the largest logit with a bin of its own; groups are small, so with noise few."""
    if is_private_trainer(config.privacy):
        return FEW_CELLS, NOISED_LOGIT_LIMIT
    return config.evaluation.bins, LOGIT_LIMIT


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

    Those of a private run hold every subgroup, whatever its size, and are to be noised.

    Args:
        predictions: of test studies.
        groups: the subgroup of each study, by variable.
        config: sets the variables, the bins and the smallest subgroup.

    """
    bins, tables = _get_bins(config), {}
    labelled = ~np.isnan(predictions.labels).all(axis=1)
    least = 0 if is_private_trainer(config.privacy) else config.evaluation.min_group
    shapes = get_subgroup_shapes(config)
    for variable in list_subgroup_variables(config):
        name, places = SUBGROUP_PREFIX + variable.name, groups[variable.name]
        tables[name] = table = np.zeros(shapes[name], np.int64)
        if not _has_small_group(places[labelled], predictions.patient[labelled], least):
            for group in range(len(variable.groups)):
                counts = count_scores(_select_predictions(predictions, places == group), *bins)
                table[:, group] = counts.positives, counts.negatives
    return tables


def evaluate_subgroups(tables: Mapping[str, np.ndarray], config: Config) -> list[dict[str, Any]]:
    """Return the metrics of each variable's subgroups, and the gap between the best and the worst, for JSON.

    A subgroup with fewer than `evaluation.min_group` studies with or without the class has no metrics; neither has one
    that is lost in the noise of a private run.
    """
    return [
        _evaluate_variable(each, _read_counts(tables, SUBGROUP_PREFIX + each.name), config)
        for each in list_subgroup_variables(config)
        if SUBGROUP_PREFIX + each.name in tables
    ]


def _read_counts(tables: Mapping[str, np.ndarray], name: str) -> ScoreHistograms:
    """Return the counts [groups, K, bins] of a variable."""
    if (variance := tables.get(SUBGROUP_PREFIX + NOISE)) is None:
        return ScoreHistograms(tables[name][0], tables[name][1])
    noise_std = math.sqrt(max(float(decode_counts(variance)[0]), 0.0))
    raw = decode_counts(tables[name])
    return ScoreHistograms(raw[0], raw[1], noise_std)


def _evaluate_variable(variable: SubgroupVariable, counts: ScoreHistograms, config: Config) -> dict[str, object]:
    rows: list[dict[str, object]] = []
    draws: list[np.ndarray] = []
    resamples, least = config.evaluation.bootstrap, config.evaluation.min_group
    for place, group in enumerate(variable.groups):
        own = ScoreHistograms(counts.positives[place], counts.negatives[place], counts.noise_std)
        large = min(float(side.sum(axis=1).max()) for side in (own.positives, own.negatives)) >= least
        scores, drawn = _score_group(own, resamples, config.seed + place) if large else ({}, np.array([np.nan]))
        draws += [] if np.isnan(drawn[0]) else [drawn]
        shown = {name: found.as_dict() for name, found in scores.items() if not math.isnan(found.value)}
        rows.append({"group": group, "studies": _count_studies(own, least)} | {name: shown.get(name) for name in SHOWN})
    draws.sort(key=lambda drawn: float(drawn[0]))
    gap = _estimate_interval(draws[-1] - draws[0]).as_dict() if len(draws) > 1 else None
    noise = {"noise": describe_histogram_noise(counts)} if counts.noise_std else {}
    return {"variable": variable.name, "groups": rows, "gap": gap, **noise}


def _score_group(counts: ScoreHistograms, resamples: int, seed: int) -> tuple[dict[str, Estimate], np.ndarray]:
    """Return the metrics of a group, and its AUROC [0] with its resamples [1:]."""
    if counts.noise_std:
        return compute_histogram_metrics(counts, resamples, seed), bootstrap_histogram_auroc(counts, resamples, seed)
    drawn = bootstrap_histogram_metrics(counts, resamples, seed)
    return {name: metrics.estimate_metric(name, values) for name, values in drawn.items()}, drawn[PRIMARY_METRIC]


def _estimate_interval(drawn: np.ndarray) -> Estimate:
    return metrics.estimate_interval(drawn[1:], float(drawn[0]))


def _count_studies(counts: ScoreHistograms, least: int) -> int | None:
    """Return how many studies a group has; None if they are few, or lost in the noise."""
    studies = float(counts.positives[0].sum() + counts.negatives[0].sum())
    noise_std = counts.noise_std * math.sqrt(2 * counts.positives.shape[1])
    return round(studies) if studies >= max(least, LEAST_SIGNAL * noise_std) else None


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
