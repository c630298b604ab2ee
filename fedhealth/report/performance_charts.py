"""Charts of the final model's performance: ROC, precision-recall and calibration curves."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedhealth.evaluation.metrics import CALIBRATION_BINS, ScoreTable
from fedhealth.evaluation.noised_scores import LEAST_SIGNAL
from fedhealth.report.charts import MAX_NAMED_LINES, shorten_name
from fedhealth.report.svg import ACCENT, PALETTE, PAPER, RULE, new_figure


def draw_roc(tables: Mapping[str, ScoreTable]) -> Figure:
    """Draw one ROC curve per class."""
    figure = new_figure(320)
    axes = _add_unit_square(figure, "false positive rate", "true positive rate")
    single = len(tables) == 1
    for index, (name, table) in enumerate(tables.items()):
        colour = ACCENT if single else PALETTE[index % len(PALETTE)]
        rates = [_cumulate_from_top(side) for side in (table.negatives, table.positives)]
        axes.plot(*rates, color=colour, linewidth=2 if single else 1.4, label=shorten_name(name))
    if not single and len(tables) <= MAX_NAMED_LINES:
        axes.legend(loc="lower right")
    return figure


def draw_precision_recall(tables: Mapping[str, ScoreTable]) -> Figure:
    """Draw one precision-recall curve per class, as steps; a dotted line is the class's prevalence."""
    figure = new_figure(320)
    axes = figure.add_subplot(
        aspect="equal", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel="recall", ylabel="precision"
    )
    axes.grid()
    single = len(tables) == 1
    for index, (name, table) in enumerate(tables.items()):
        colour = ACCENT if single else PALETTE[index % len(PALETTE)]
        hits = np.cumsum(table.positives[::-1])
        called = hits + np.cumsum(table.negatives[::-1])
        used = called > 0
        recall, precision = hits[used] / hits[-1], hits[used] / called[used]
        axes.plot(recall, precision, color=colour, linewidth=2 if single else 1.4, label=shorten_name(name))
        axes.axhline(hits[-1] / called[-1], color=colour, linewidth=1, dashes=(1, 3))
    if not single and len(tables) <= MAX_NAMED_LINES:
        axes.legend(loc="lower left")
    return figure


def draw_calibration(table: ScoreTable, noise_std: float = 0.0) -> Figure:
    """Draw observed frequency against predicted probability, with 95 % intervals.

    Args:
        table: exact counts, drawn in equal-width bins with Wilson's intervals; or raw counts with noise, drawn as they
            are where they are not lost in it, with intervals that include it.
        noise_std: standard deviation of the noise of every count.

    """
    figure = new_figure(320)
    axes = _add_unit_square(figure, "predicted probability", "observed frequency")
    stated, observed, low, high, totals = _bin_noised_shares(table, noise_std) if noise_std else _bin_shares(table)
    axes.vlines(stated, low, high, color=ACCENT, linewidth=1.2, alpha=0.6)
    sizes = 24 + 90 * totals / max(totals, default=1)
    axes.scatter(stated, observed, s=sizes, color=ACCENT, edgecolor=PAPER, linewidth=1, zorder=3)
    return figure


def _bin_shares(table: ScoreTable) -> tuple[np.ndarray, ...]:
    """Return predicted and observed share, interval and number of studies of the bins that are not empty."""
    bins = np.minimum((table.scores * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    weight = table.positives + table.negatives
    totals = np.bincount(bins, weight, CALIBRATION_BINS)
    used = totals > 0
    stated = np.bincount(bins, weight * table.scores, CALIBRATION_BINS)[used] / totals[used]
    observed = np.bincount(bins, table.positives, CALIBRATION_BINS)[used] / totals[used]
    return stated, observed, *wilson_interval(observed, totals[used]), totals[used]


def _bin_noised_shares(table: ScoreTable, noise_std: float) -> tuple[np.ndarray, ...]:
    """Return the same for the cells that are well above their noise; the delta method gives the intervals."""
    totals = table.positives + table.negatives
    used = totals >= LEAST_SIGNAL * noise_std * math.sqrt(2)
    totals, observed = totals[used], np.clip(table.positives[used] / totals[used], 0, 1)
    of_noise = noise_std**2 * ((1 - observed) ** 2 + observed**2)
    half = 1.959964 * np.sqrt(observed * (1 - observed) * totals + of_noise) / totals
    return table.scores[used], observed, np.clip(observed - half, 0, 1), np.clip(observed + half, 0, 1), totals


def wilson_interval(share: np.ndarray, total: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return Wilson's 95 % interval (1927) of observed shares."""
    z2 = 1.959964**2
    middle = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = np.sqrt(z2 * (share * (1 - share) / total + z2 / (4 * total**2))) / (1 + z2 / total)
    return middle - half, middle + half


def _add_unit_square(figure: Figure, x: str, y: str) -> Axes:
    """Return axes over [0, 1] x [0, 1] with the diagonal."""
    axes = figure.add_subplot(aspect="equal", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel=x, ylabel=y)
    axes.plot([0, 1], [0, 1], color=RULE, linewidth=1.2)
    axes.grid()
    return axes


def _cumulate_from_top(weights: np.ndarray) -> np.ndarray:
    """Return the share of `weights` at or above each score, from 0 to 1."""
    return np.concatenate([[0.0], np.cumsum(weights[::-1]) / weights.sum()])
