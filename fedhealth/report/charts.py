"""The report's charts: numbers in, a figure in the house's placeholder colours out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator
from matplotlib.transforms import offset_copy

from fedhealth.evaluation.metrics import CALIBRATION_BINS, Estimate, ScoreTable
from fedhealth.report import wording
from fedhealth.report.svg import ACCENT, ALERT, INK, MUTED, PALETTE, PAPER, RULE, blank

_ROW = 25.0
_TOLD_APART = 8  # more lines than this are drawn alike
_LONGEST = 22
_BESIDE = 10.0  # between dots that would meet
_MEETING = 0.02  # of the axis: dots that are closer meet


@dataclass(frozen=True)
class Series:
    """A line: name, x, y (NaN = no point)."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True)
class Point:
    """A run in a drawing of what utility costs: its name there, cost, utility, and whether no other run beats it."""

    name: str
    cost: float
    utility: Estimate
    best: bool


def frontier(points: Sequence[Point], cost: str, utility: str) -> Figure:
    """Draw utility with its interval against cost, on a logarithmic axis where costs differ by more than tenfold."""
    figure = blank(300)
    axes = figure.add_subplot()
    for point, shift in zip(points, _apart([point.cost for point in points]), strict=True):
        colour = ACCENT if point.best else MUTED
        place = offset_copy(axes.transData, figure, x=shift, units="points")
        if not math.isnan(point.utility.low):
            ends = [point.utility.low, point.utility.high]
            axes.plot([point.cost] * 2, ends, color=colour, linewidth=1.4, alpha=0.6, transform=place)
        (dot,) = axes.plot([point.cost], [point.utility.value], color=colour, markersize=6, transform=place)
        dot.set(marker="D" if point.best else "o", gid=f"run-{point.name}")
        where = (point.cost, point.utility.value)
        axes.annotate(point.name, where, (shift + 5, 4), textcoords="offset points", color=INK, fontsize="small")
        axes.update_datalim([(point.cost, point.utility.value + side) for side in _reach(point.utility)])
    costs = [point.cost for point in points]
    axes.set_xscale("log" if max(costs) > 10 * min(costs) else "linear")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.margins(x=0.12)
    axes.autoscale_view()
    axes.set_xlabel(cost)
    axes.set_ylabel(utility)
    axes.grid()
    return figure


def _reach(utility: Estimate) -> tuple[float, float]:
    """Return how far an interval reaches below and above its value; not at all where there is none."""
    ends = utility.low - utility.value, utility.high - utility.value
    return ends if not math.isnan(utility.low) else (0.0, 0.0)


def _apart(costs: Sequence[float]) -> list[float]:
    """Return how far each dot is drawn to the side, in points of print: dots that would meet come side by side."""
    near = _MEETING * (max(costs) - min(costs))
    shifts = []
    for place, cost in enumerate(costs):
        meeting = [other for other, theirs in enumerate(costs) if abs(theirs - cost) <= near]
        shifts.append(_BESIDE * (meeting.index(place) - (len(meeting) - 1) / 2))
    return shifts


def forest(rows: Sequence[tuple[str, Estimate]], axis: str) -> Figure:
    """Draw estimates with intervals, one a row; the first is the one the others are measured against."""
    figure = blank(52 + _ROW * len(rows))
    axes = figure.add_subplot()
    axes.axvline(rows[0][1].value, color=ACCENT, linewidth=1, dashes=(3, 3))
    for place, (_, estimate) in enumerate(rows):
        colour = MUTED if place else ACCENT
        axes.plot([estimate.low, estimate.high], [place, place], color=colour, linewidth=2)
        axes.plot([estimate.value], [place], "o" if place else "D", color=colour, markersize=6, gid=f"row-{place}")
    axes.set_yticks(range(len(rows)), [short(name) for name, _ in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    _rows(axes, axis)
    axes.get_yticklabels()[0].set_fontweight("bold")
    return figure


def curves(pooled: Series, sites: Sequence[Series], axis: str, many: str = "single hospitals") -> Figure:
    """Draw a value per round: pooled in bold, sites as thin lines; `many` names them where they are drawn alike."""
    named = len(sites) <= _TOLD_APART
    figure = blank(250 + (16 * math.ceil((len(sites) + 1) / 2) if named else 16))
    axes = figure.add_subplot()
    for index, line in enumerate(sites):
        colour = PALETTE[index % len(PALETTE)] if named else MUTED
        dash = "-" if index < len(PALETTE) or not named else "--"
        label = short(line.name) if named else "" if index else many
        axes.plot(line.x, line.y, dash, color=colour, linewidth=1.2, label=label, alpha=1 if named else 0.5)
    axes.plot(pooled.x, pooled.y, color=INK, linewidth=2.4, label=short(pooled.name), marker="o", markersize=3)
    axes.set_xlabel("rounds")
    axes.set_ylabel(axis)
    axes.grid(axis="y")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside lower center", ncols=2)
    return figure


def roc(tables: Mapping[str, ScoreTable]) -> Figure:
    """Draw one ROC curve per class."""
    figure = blank(320)
    axes = _square(figure, "false positive rate", "true positive rate")
    single = len(tables) == 1
    for index, (name, table) in enumerate(tables.items()):
        colour = ACCENT if single else PALETTE[index % len(PALETTE)]
        rates = [_from_the_top(side) for side in (table.negatives, table.positives)]
        axes.plot(*rates, color=colour, linewidth=2 if single else 1.4, label=short(name))
    if not single and len(tables) <= _TOLD_APART:
        axes.legend(loc="lower right")
    return figure


def precision_recall(tables: Mapping[str, ScoreTable]) -> Figure:
    """Draw one precision-recall curve per class, as steps; a dotted line is the class's prevalence."""
    figure = blank(320)
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
        axes.plot(recall, precision, color=colour, linewidth=2 if single else 1.4, label=short(name))
        axes.axhline(hits[-1] / called[-1], color=colour, linewidth=1, dashes=(1, 3))
    if not single and len(tables) <= _TOLD_APART:
        axes.legend(loc="lower left")
    return figure


def calibration(table: ScoreTable) -> Figure:
    """Draw observed frequency against stated probability in equal-width bins, with 95 % Wilson intervals."""
    figure = blank(320)
    axes = _square(figure, "predicted probability", "observed frequency")
    bins = np.minimum((table.scores * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    weight = table.positives + table.negatives
    totals = np.bincount(bins, weight, CALIBRATION_BINS)
    used = totals > 0
    stated = np.bincount(bins, weight * table.scores, CALIBRATION_BINS)[used] / totals[used]
    observed = np.bincount(bins, table.positives, CALIBRATION_BINS)[used] / totals[used]
    low, high = wilson(observed, totals[used])
    axes.vlines(stated, low, high, color=ACCENT, linewidth=1.2, alpha=0.6)
    sizes = 24 + 90 * totals[used] / totals.max()
    axes.scatter(stated, observed, s=sizes, color=ACCENT, edgecolor=PAPER, linewidth=1, zorder=3)
    return figure


def traffic(names: Sequence[str], down: Sequence[float], up: Sequence[float]) -> Figure:
    """Draw bytes to and from, stacked, one row each."""
    figure = blank(66 + _ROW * len(names))
    axes = figure.add_subplot()
    places = range(len(names))
    axes.barh(places, down, 0.62, color=PALETTE[0], label="to the hospital")
    axes.barh(places, up, 0.62, left=down, color=PALETTE[1], label="from the hospital")
    axes.set_yticks(places, [short(name) for name in names])
    axes.invert_yaxis()
    _bytes_axis(axes)
    figure.legend(loc="outside upper center", ncols=2)
    return figure


def traffic_by_round(labels: Sequence[str], down: Sequence[float], up: Sequence[float]) -> Figure:
    """Draw bytes to and from all hospitals, stacked, one column per round."""
    figure = blank(230)
    axes = figure.add_subplot()
    places = range(len(labels))
    axes.bar(places, down, 0.7, color=PALETTE[0], label="to the hospitals")
    axes.bar(places, up, 0.7, bottom=down, color=PALETTE[1], label="from the hospitals")
    step, last = math.ceil(len(labels) / 10), len(labels) - 1
    shown = [place for place in places[::step] if last - place >= step] + [last]
    axes.set_xticks(shown, [labels[place] for place in shown])
    axes.set_xlabel("round")
    axes.tick_params(axis="x", length=0)
    axes.grid(axis="y")
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: wording.size(value, exact=False)))
    figure.legend(loc="outside upper center", ncols=2)
    return figure


def timeline(sites: Sequence[str], seconds: Mapping[tuple[str, int], float], failed: set[tuple[str, int]]) -> Figure:
    """Draw seconds by (site, round) as shades, the slowest darkest; failures as crosses."""
    figure = blank(56 + _ROW * len(sites))
    axes = figure.add_subplot()
    slowest = max(seconds.values(), default=0.0) or 1.0
    last = max((number for _, number in (*seconds, *failed)), default=1)
    for (site, number), took in seconds.items():
        corner = (number - 0.46, sites.index(site) - 0.4)
        axes.add_patch(Rectangle(corner, 0.92, 0.8, color=ACCENT, alpha=0.1 + 0.9 * (took / slowest), linewidth=0))
    for site, number in sorted(failed):
        axes.plot([number], [sites.index(site)], "x", color=ALERT, markersize=8, markeredgewidth=2)
    axes.set_xlim(0.4, last + 0.6)
    axes.set_yticks(range(len(sites)), [short(site) for site in sites])
    axes.set_ylim(len(sites) - 0.5, -0.5)
    _rows(axes, "round")
    axes.grid(visible=False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    return figure


def wilson(share: np.ndarray, total: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return Wilson's 95 % interval (1927) of observed shares."""
    z2 = 1.959964**2
    middle = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = np.sqrt(z2 * (share * (1 - share) / total + z2 / (4 * total**2))) / (1 + z2 / total)
    return middle - half, middle + half


def short(name: str) -> str:
    """Return a name that fits beside a chart."""
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"


def _rows(axes: Axes, label: str) -> None:
    """Make an axis with a name per row."""
    axes.set_xlabel(label)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.grid(axis="x")


def _bytes_axis(axes: Axes) -> None:
    _rows(axes, "")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=4))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: wording.size(value, exact=False)))


def _square(figure: Figure, x: str, y: str) -> Axes:
    """Return axes over [0, 1] x [0, 1] with the diagonal."""
    axes = figure.add_subplot(aspect="equal", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel=x, ylabel=y)
    axes.plot([0, 1], [0, 1], color=RULE, linewidth=1.2)
    axes.grid()
    return axes


def _from_the_top(weights: np.ndarray) -> np.ndarray:
    """Return the share of `weights` at or above each score, from 0 to 1."""
    return np.concatenate([[0.0], np.cumsum(weights[::-1]) / weights.sum()])
