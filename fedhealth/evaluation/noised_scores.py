"""Metrics of score histograms that hold the Gaussian noise of differential privacy, with intervals that include it.

AUROC is bilinear in the counts p and n of studies with and without the class, A(p, n) / (P N), so noise of mean zero
does not bias it. Within a cell the densities are taken as linear, with slopes from the neighbouring cells; that, too,
is bilinear, and removes the bias of the coarse cells.

Interval: the basic bootstrap (Davison and Hinkley, Bootstrap Methods and their Application, 1997, section 5.2). A
resample draws Poisson counts around the projected cells and adds fresh noise of the known size; the deviations of its
metric from that of the projected cells are taken to be those of the estimate from the truth. A metric is not reported
where the noise is too large for this: then an interval would be wrong, too (`is_scorable`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from fedhealth.evaluation.metrics import (
    PRIMARY_METRIC,
    Estimate,
    ScoreTable,
    compute_balanced_accuracy,
    compute_bin_centres,
    compute_calibration_error,
)
from fedhealth.privacy.mechanisms.noised_counts import project_to_counts
from fedhealth.utils.auroc import divide_or_nan

NOISED_LOGIT_LIMIT = 8.0  # range of the cells: probabilities beyond 3e-4 from 0 or 1 share the outer ones
LEAST_SIGNAL = 4.0  # a sum of counts is used if it is this many standard deviations of its noise
FEW_CELLS, _MANY_CELLS = 12, 20
_MANY_FROM_EPSILON = 4.0
_LEVELS = (0.025, 0.975)
_NULL_LEVEL = 0.95  # of the test of perfect calibration
NOT_REPORTED = Estimate(math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class NoisedCells:
    """The noised counts of one class.

    Attributes:
        positives: float64 [..., cells], raw: may be negative.
        negatives: the same for studies without the class.
        noise_std: standard deviation of the noise of each count.
        scores: the probability [cells] that each cell states, ascending; None for those at the cells' centres.

    """

    positives: np.ndarray
    negatives: np.ndarray
    noise_std: float
    scores: np.ndarray | None = None


@dataclass(frozen=True)
class _Deviations:
    """A class's estimate `value`, with the deviations of its lower and its upper bound in each resample."""

    value: float
    low: np.ndarray
    high: np.ndarray


def count_score_cells(epsilon: float) -> int:
    """Return the number of cells that scores are counted in: fewer cells hold less noise, more hold less bias."""
    return FEW_CELLS if epsilon < _MANY_FROM_EPSILON else _MANY_CELLS


def is_scorable(cells: NoisedCells) -> bool:
    """Return whether both classes' totals are well above their noise."""
    return bool(_mark_scorable(cells))


def _mark_scorable(cells: NoisedCells) -> np.ndarray:
    """Return the same for each resample."""
    least = max(LEAST_SIGNAL * cells.noise_std * math.sqrt(cells.positives.shape[-1]), 1.0)
    return np.asarray(np.minimum(cells.positives.sum(-1), cells.negatives.sum(-1)) >= least)


def estimate_noised_metrics(columns: list[NoisedCells], resamples: int, seed: int) -> dict[str, Estimate]:
    """Return every metric, the mean over the scorable classes; NaN if there is none.

    Args:
        columns: one per class.
        resamples: of the bootstrap, at least 2.
        seed: of the resampling.

    """
    scorable = [cells for cells in columns if is_scorable(cells)]
    if not scorable:
        return dict.fromkeys(_ESTIMATORS, NOT_REPORTED)
    generator = np.random.default_rng(seed)
    drawn = [_resample_cells(cells, resamples, generator) for cells in scorable]
    found = {}
    for name, estimate in _ESTIMATORS.items():
        parts = [estimate(cells, centre, draws) for cells, (centre, draws) in zip(scorable, drawn, strict=True)]
        found[name] = _build_estimate(parts)
    return found


def bootstrap_noised_auroc(columns: list[NoisedCells], resamples: int, seed: int) -> np.ndarray:
    """Return the AUROC [0] and values [1:] whose percentiles give its basic bootstrap interval; NaN if not reported."""
    scorable = [cells for cells in columns if is_scorable(cells)]
    if not scorable:
        return np.full(resamples + 1, np.nan)
    generator = np.random.default_rng(seed)
    parts = [_deviate_auroc(cells, *_resample_cells(cells, resamples, generator)) for cells in scorable]
    value = float(np.mean([part.value for part in parts]))
    return np.concatenate([[value], value - np.mean([part.low for part in parts], axis=0)])


def compute_noised_auroc(positives: np.ndarray, negatives: np.ndarray) -> np.ndarray:
    """Return the AUROC of raw counts [..., cells]; it may lie outside [0, 1].

    A pair in one cell counts 1/2 plus the difference of the two densities' relative slopes over 12. With slopes from
    the neighbouring cells, neighbours count 1 + 1/12 and -1/12 instead of 1 and 0.
    """
    below = np.cumsum(negatives, axis=-1) - negatives / 2
    neighbours = (positives[..., 1:] * negatives[..., :-1] - positives[..., :-1] * negatives[..., 1:]).sum(-1)
    pairs = positives.sum(-1) * negatives.sum(-1)
    return divide_or_nan((positives * below).sum(-1) + neighbours / 12, pairs)


def compute_noised_auprc(cells: NoisedCells) -> tuple[np.ndarray, np.ndarray]:
    """Return average precision, and how much larger it may be because of the order within the top cells.

    Precision is a ratio of sums from the top cell down. Where such a sum is not well above its noise, cells are merged
    with those below. Within the topmost merged cells the precision may be constant (first value) or fall from 1
    (the first plus the second).
    """
    count, shape = cells.positives.shape[-1], cells.positives.shape[:-1]
    hits, called, area, room = (np.zeros(shape) for _ in range(4))
    last_hits, last_called = np.zeros(shape), np.zeros(shape)
    for depth in range(1, count + 1):
        hits = hits + cells.positives[..., count - depth]
        called = called + cells.positives[..., count - depth] + cells.negatives[..., count - depth]
        used = (called >= LEAST_SIGNAL * cells.noise_std * math.sqrt(2 * depth)) & (called > 0) | (depth == count)
        end = _divide_to_share(hits, called)
        start = np.where(last_called > 0, _divide_to_share(last_hits, last_called), end)
        middle = _divide_to_share(hits + last_hits, called + last_called)
        area = np.where(used, area + (hits - last_hits) * (start + 4 * middle + end) / 6, area)
        room = np.where(used & (last_called == 0), hits * (1 - end) / 2, room)
        last_hits, last_called = np.where(used, hits, last_hits), np.where(used, called, last_called)
    return divide_or_nan(area, hits), divide_or_nan(room, hits)


def _divide_to_share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.clip(np.nan_to_num(divide_or_nan(part, whole)), 0.0, 1.0)


def _resample_cells(
    cells: NoisedCells, resamples: int, generator: np.random.Generator
) -> tuple[NoisedCells, NoisedCells]:
    """Return the projected cells, and the resamples drawn around them.

    Only resamples that would be reported count, repeated where there are too few: the estimate was reported, too.
    """
    centre = NoisedCells(project_to_counts(cells.positives), project_to_counts(cells.negatives), 0.0, cells.scores)
    drawn = _draw_cells(centre, cells.noise_std, resamples, generator)
    reported = np.resize(np.flatnonzero(_mark_scorable(drawn)), resamples)
    return centre, replace(drawn, positives=drawn.positives[reported], negatives=drawn.negatives[reported])


def _draw_cells(around: NoisedCells, noise_std: float, resamples: int, generator: np.random.Generator) -> NoisedCells:
    """Return Poisson counts around exact ones, with fresh noise, each [resamples, cells]."""
    size = (resamples, len(around.positives))
    drawn, without = (
        generator.poisson(side, size) + generator.normal(0.0, noise_std, size)
        for side in (around.positives, around.negatives)
    )
    return NoisedCells(drawn, without, noise_std, around.scores)


def _deviate_auroc(cells: NoisedCells, centre: NoisedCells, draws: NoisedCells) -> _Deviations:
    value, middle, drawn = (compute_noised_auroc(each.positives, each.negatives) for each in (cells, centre, draws))
    return _Deviations(float(value), drawn - middle, drawn - middle)


def _deviate_auprc(cells: NoisedCells, centre: NoisedCells, draws: NoisedCells) -> _Deviations:
    same_rule = replace(centre, noise_std=cells.noise_std)
    (value, room), (middle, middle_room), (drawn, drawn_room) = map(compute_noised_auprc, (cells, same_rule, draws))
    point = float(value + room / 2)
    low = drawn - middle + room / 2
    high = (drawn + drawn_room) - (middle + middle_room) - room / 2
    return _Deviations(point, low, high)


def _deviate_balanced_accuracy(cells: NoisedCells, centre: NoisedCells, draws: NoisedCells) -> _Deviations:
    value, middle, drawn = (compute_balanced_accuracy(_build_table(each)) for each in (cells, centre, draws))
    return _Deviations(float(value), drawn - middle, drawn - middle)


def _deviate_calibration_error(cells: NoisedCells, centre: NoisedCells, draws: NoisedCells) -> _Deviations:
    """Return the estimate without the bias of the noise; where a perfect calibration is plausible, the bound is 0."""
    value, middle, drawn = (compute_calibration_error(_build_table(each)) for each in (cells, centre, draws))
    deviations = drawn - middle
    point = max(float(value - deviations.mean()), 0.0)
    low = deviations + (point - value)
    if value <= np.quantile(_draw_perfect_errors(centre, draws), _NULL_LEVEL):
        low = np.full_like(low, point)
    return _Deviations(point, low, np.minimum(deviations + (point - value), 0.0))


def _draw_perfect_errors(centre: NoisedCells, draws: NoisedCells) -> np.ndarray:
    """Return the errors that a perfectly calibrated model would show under this noise."""
    total, stated = centre.positives + centre.negatives, _build_table(centre).scores
    generator = np.random.default_rng(len(total))
    right = replace(centre, positives=total * stated, negatives=total * (1 - stated))
    perfect = _draw_cells(right, draws.noise_std, len(draws.positives), generator)
    return compute_calibration_error(_build_table(perfect))


def _build_table(cells: NoisedCells) -> ScoreTable:
    centres = compute_bin_centres(cells.positives.shape[-1], NOISED_LOGIT_LIMIT)
    return ScoreTable(centres if cells.scores is None else cells.scores, cells.positives, cells.negatives)


def _build_estimate(parts: list[_Deviations]) -> Estimate:
    """Return the mean over classes with its basic bootstrap interval, cut to [0, 1] and widened to hold the mean."""
    value = float(np.mean([part.value for part in parts]))
    low, high = (np.mean([getattr(part, side) for part in parts], axis=0) for side in ("low", "high"))
    ends = (
        min(value, value - float(np.quantile(low, _LEVELS[1]))),
        max(value, value - float(np.quantile(high, _LEVELS[0]))),
    )
    return Estimate(*(min(max(number, 0.0), 1.0) for number in (value, *ends)))


_ESTIMATORS: dict[str, Callable[[NoisedCells, NoisedCells, NoisedCells], _Deviations]] = {
    PRIMARY_METRIC: _deviate_auroc,
    "auprc": _deviate_auprc,
    "balanced_accuracy": _deviate_balanced_accuracy,
    "calibration_error": _deviate_calibration_error,
}
