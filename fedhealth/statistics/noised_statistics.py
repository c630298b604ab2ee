"""Statistics of tables of counts that hold the Gaussian noise of differential privacy, with its intervals.

Every table counts the same patients, so their number is estimated from all tables, weighted by their noise; each table
is then shifted to that number (least squares) and projected to possible counts. The intervals cover the noise alone:
they are about these patients, not about others. Means and quartiles get basic bootstrap intervals (Davison and Hinkley,
1997, section 5.2); they are not reported where the known values are not well above their noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from fedhealth.evaluation.noised_scores import LEAST_SIGNAL
from fedhealth.privacy.mechanisms.noised_counts import decode_counts, project_to_counts
from fedhealth.statistics.descriptive import Quantity

QUARTERS = (0.25, 0.5, 0.75)
_Z = 1.96  # half width of a 95 % interval, in standard deviations
_RESAMPLES = 500
_LEVELS = (97.5, 2.5)


def compute_noised_statistics(
    tables: Mapping[Quantity, np.ndarray], variance: np.ndarray, seed: int
) -> list[dict[str, Any]]:
    """Return the statistics of every quantity, for JSON.

    Args:
        tables: words of the summed counts, by quantity.
        variance: words [1] of the variance of each count's noise.
        seed: of the resampling.

    """
    std = math.sqrt(max(float(decode_counts(variance)[0]), 0.0))
    raw = {quantity: decode_counts(words) for quantity, words in tables.items()}
    patients, patients_std = _estimate_patients(list(raw.values()), std)
    generator, found = np.random.default_rng(seed), []
    for quantity, counts in raw.items():
        shifted = counts + (patients - counts.sum()) / len(counts)
        possible = project_to_counts(shifted)
        head = {
            "name": quantity.name,
            "patients": round(patients),
            "patients_interval": _build_count_interval(patients, patients_std),
            "missing": _keep_above_noise(float(possible[-1]), std),
            "noise_std": round(std, 2),
        }
        rest = (
            _summarize_values(quantity, counts, std, generator)
            if quantity.edges
            else _summarize_categories(quantity, counts, possible, std)
        )
        found.append(head | rest)
    return found


def _estimate_patients(tables: list[np.ndarray], std: float) -> tuple[float, float]:
    """Return the number of patients, and the standard deviation of its noise."""
    weights = np.array([1 / len(counts) for counts in tables])
    totals = np.array([counts.sum() for counts in tables])
    return max(float((weights * totals).sum() / weights.sum()), 0.0), std / math.sqrt(weights.sum())


def _summarize_categories(quantity: Quantity, counts: np.ndarray, possible: np.ndarray, std: float) -> dict[str, Any]:
    intervals = [
        [min(low, round(shown)), max(high, round(shown))]
        for (low, high), shown in zip((_build_count_interval(float(n), std) for n in counts), possible, strict=True)
    ]
    return {
        "counts": {name: round(float(shown)) for name, shown in zip(quantity.bins, possible, strict=True)},
        "intervals": dict(zip(quantity.bins, intervals, strict=True)),
    }


def _summarize_values(
    quantity: Quantity, counts: np.ndarray, std: float, generator: np.random.Generator
) -> dict[str, Any]:
    """Return mean and quartiles with their intervals; null where the known values are lost in the noise."""
    known = counts[:-1]
    if known.sum() < max(LEAST_SIGNAL * std * math.sqrt(len(known)), 1.0):
        return {"mean": None, "quartiles": None, "exact_to": None}
    edges = np.array([quantity.edges[0], *quantity.edges, quantity.edges[-1]])
    possible = project_to_counts(known)
    draws = possible + generator.normal(0.0, std, (_RESAMPLES, len(possible)))
    mean, mean_interval = _bound_statistic(partial(compute_mean, edges), known, possible, draws)
    found = [
        _bound_statistic(partial(interpolate_noised_quantile, edges, level=level), known, possible, draws)
        for level in QUARTERS
    ]
    return {
        "mean": round_to_four_digits(mean),
        "mean_interval": mean_interval,
        "quartiles": [round_to_four_digits(value) for value, _ in found],
        "quartile_intervals": [interval for _, interval in found],
        "exact_to": round_to_four_digits((quantity.edges[1] - quantity.edges[0]) / 2),
    }


def _bound_statistic(
    compute: Callable[[np.ndarray], float], counts: np.ndarray, possible: np.ndarray, draws: np.ndarray
) -> tuple[float, list[float]]:
    """Return a statistic with its basic bootstrap interval."""
    value, deviations = compute(counts), np.array([compute(draw) for draw in draws]) - compute(possible)
    ends = (value - float(np.percentile(deviations, level)) for level in _LEVELS)
    return value, [round_to_four_digits(end) for end in ends]


def compute_mean(edges: np.ndarray, counts: np.ndarray) -> float:
    """Return the mean of values that were counted between edges; each counts as the middle of its bin."""
    return float((counts * (edges[:-1] + edges[1:]) / 2).sum() / counts.sum())


def interpolate_quantile(edges: np.ndarray, counts: np.ndarray, level: float) -> float:
    """Return where the cumulative share reaches a level, interpolated linearly within the bin."""
    return _find_level(edges, np.cumsum(counts) / counts.sum(), level)


def interpolate_noised_quantile(edges: np.ndarray, counts: np.ndarray, level: float) -> float:
    """Return the same for raw counts, whose cumulative sum need not rise: the mean of its two monotone envelopes."""
    raw = np.cumsum(counts)
    above, below = np.maximum.accumulate(raw), np.minimum.accumulate(raw[::-1])[::-1]
    return _find_level(edges, np.clip((above + below) / (2 * counts.sum()), 0.0, 1.0), level)


def _find_level(edges: np.ndarray, share: np.ndarray, level: float) -> float:
    index = min(int(np.searchsorted(share, level)), len(share) - 1)
    before = share[index - 1] if index else 0.0
    part = (level - before) / max(share[index] - before, 1e-12)
    return float(edges[index] + part * (edges[index + 1] - edges[index]))


def round_to_four_digits(value: float) -> float:
    """Return a value with four significant digits."""
    return float(f"{value:.4g}")


def _build_count_interval(count: float, std: float) -> list[int]:
    return [max(math.floor(count - _Z * std), 0), max(math.ceil(count + _Z * std), 0)]


def _keep_above_noise(count: float, std: float) -> int | None:
    """Return a count, or None where it cannot be told from zero."""
    return round(count) if count > _Z * std else None
