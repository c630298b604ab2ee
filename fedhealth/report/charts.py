"""Draw the report's charts as matplotlib figures in the placeholder colours of `svg`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator
from matplotlib.transforms import offset_copy

from fedhealth.evaluation.metrics import Estimate
from fedhealth.report import wording
from fedhealth.report.svg import ACCENT, ALERT, INK, MUTED, PALETTE, new_figure

_ROW_HEIGHT = 25.0
MAX_NAMED_LINES = 8  # with more lines than this, all get the same colour
_MAX_NAME_LENGTH = 22
_DOT_SHIFT = 10.0  # between dots that would meet
_OVERLAP_SHARE = 0.02  # of the axis: dots that are closer meet
_MOST_COLUMNS, _MOST_CELLS = 180, 6000  # on the width of a phone a column per two pixels; a page must stay small


@dataclass(frozen=True)
class ChartSeries:
    """A line of a chart: name, x, y (NaN = no point)."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True)
class RunPoint:
    """A run in a trade-off chart: name, cost, utility, and whether it is on the Pareto front (`best`)."""

    name: str
    cost: float
    utility: Estimate
    best: bool


def draw_trade_off(points: Sequence[RunPoint], cost: str, utility: str) -> Figure:
    """Draw utility with its interval against cost; the axis is logarithmic if costs differ more than tenfold."""
    figure = new_figure(300)
    axes = figure.add_subplot()
    for point, shift in zip(points, _separate_dots([point.cost for point in points]), strict=True):
        colour = ACCENT if point.best else MUTED
        shifted = offset_copy(axes.transData, figure, x=shift, units="points")
        if not math.isnan(point.utility.low):
            ends = [point.utility.low, point.utility.high]
            axes.plot([point.cost] * 2, ends, color=colour, linewidth=1.4, alpha=0.6, transform=shifted)
        (dot,) = axes.plot([point.cost], [point.utility.value], color=colour, markersize=6, transform=shifted)
        dot.set(marker="D" if point.best else "o", gid=f"run-{point.name}")
        where = (point.cost, point.utility.value)
        axes.annotate(point.name, where, (shift + 5, 4), textcoords="offset points", color=INK, fontsize="small")
        axes.update_datalim([(point.cost, point.utility.value + side) for side in _interval_offsets(point.utility)])
    costs = [point.cost for point in points]
    axes.set_xscale("log" if max(costs) > 10 * min(costs) else "linear")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.margins(x=0.12)
    axes.autoscale_view()
    axes.set_xlabel(cost)
    axes.set_ylabel(utility)
    axes.grid()
    return figure


def _interval_offsets(utility: Estimate) -> tuple[float, float]:
    """Return the distances from a value to the ends of its interval; zero if there is no interval."""
    ends = utility.low - utility.value, utility.high - utility.value
    return ends if not math.isnan(utility.low) else (0.0, 0.0)


def _separate_dots(costs: Sequence[float]) -> list[float]:
    """Return a horizontal shift for each dot, in points, so that dots that would overlap are drawn side by side."""
    near = _OVERLAP_SHARE * (max(costs) - min(costs))
    shifts = []
    for index, cost in enumerate(costs):
        meeting = [other for other, theirs in enumerate(costs) if abs(theirs - cost) <= near]
        shifts.append(_DOT_SHIFT * (meeting.index(index) - (len(meeting) - 1) / 2))
    return shifts


def draw_forest_plot(rows: Sequence[tuple[str, Estimate]], axis: str) -> Figure:
    """Draw estimates with intervals, one per row; the first one is the reference."""
    figure = new_figure(52 + _ROW_HEIGHT * len(rows))
    axes = figure.add_subplot()
    axes.axvline(rows[0][1].value, color=ACCENT, linewidth=1, dashes=(3, 3))
    for row, (_, estimate) in enumerate(rows):
        colour = MUTED if row else ACCENT
        axes.plot([estimate.low, estimate.high], [row, row], color=colour, linewidth=2)
        axes.plot([estimate.value], [row], "o" if row else "D", color=colour, markersize=6, gid=f"row-{row}")
    axes.set_yticks(range(len(rows)), [shorten_name(name) for name, _ in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    _style_row_axis(axes, axis)
    axes.get_yticklabels()[0].set_fontweight("bold")
    return figure


def draw_curves(pooled: ChartSeries, sites: Sequence[ChartSeries], axis: str, many: str = "single hospitals") -> Figure:
    """Draw a value per round: pooled in bold, sites as thin lines; `many` labels them if all have the same colour."""
    named = len(sites) <= MAX_NAMED_LINES
    figure = new_figure(250 + (16 * math.ceil((len(sites) + 1) / 2) if named else 16))
    axes = figure.add_subplot()
    for index, line in enumerate(sites):
        colour = PALETTE[index % len(PALETTE)] if named else MUTED
        dash = "-" if index < len(PALETTE) or not named else "--"
        label = shorten_name(line.name) if named else "" if index else many
        axes.plot(line.x, line.y, dash, color=colour, linewidth=1.2, label=label, alpha=1 if named else 0.5)
    marker = "o" if len(pooled.x) <= _MOST_COLUMNS else None
    axes.plot(
        pooled.x, pooled.y, color=INK, linewidth=2.4, label=shorten_name(pooled.name), marker=marker, markersize=3
    )
    axes.set_xlabel("rounds")
    axes.set_ylabel(axis)
    axes.grid(axis="y")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside lower center", ncols=2)
    return figure


def draw_traffic_by_site(names: Sequence[str], down: Sequence[float], up: Sequence[float]) -> Figure:
    """Draw bytes to and from each hospital, stacked, one row per hospital."""
    figure = new_figure(66 + _ROW_HEIGHT * len(names))
    axes = figure.add_subplot()
    places = range(len(names))
    axes.barh(places, down, 0.62, color=PALETTE[0], label="to the hospital")
    axes.barh(places, up, 0.62, left=down, color=PALETTE[1], label="from the hospital")
    axes.set_yticks(places, [shorten_name(name) for name in names])
    axes.invert_yaxis()
    _style_bytes_axis(axes)
    figure.legend(loc="outside upper center", ncols=2)
    return figure


def draw_traffic_by_round(labels: Sequence[str], down: Sequence[float], up: Sequence[float]) -> Figure:
    """Draw bytes to and from all hospitals, stacked, one column per round; of very many rounds the mean of several."""
    figure = new_figure(230)
    axes = figure.add_subplot()
    span = count_rounds_per_column(len(labels))
    labels, down, up = labels[::span], _average(down, span), _average(up, span)
    places = range(len(labels))
    axes.bar(places, down, 0.7, color=PALETTE[0], label="to the hospitals")
    axes.bar(places, up, 0.7, bottom=down, color=PALETTE[1], label="from the hospitals")
    step, last = math.ceil(len(labels) / 10), len(labels) - 1
    shown = [place for place in places[::step] if last - place >= step] + [last]
    axes.set_xticks(shown, [labels[place] for place in shown])
    axes.set_xlabel(_name_rounds(span))
    axes.tick_params(axis="x", length=0)
    axes.grid(axis="y")
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: wording.format_bytes(value, exact=False)))
    figure.legend(loc="outside upper center", ncols=2)
    return figure


def draw_timeline(
    sites: Sequence[str], seconds: Mapping[tuple[str, int], float], failed: set[tuple[str, int]]
) -> Figure:
    """Draw seconds by (site, round) as shades, the slowest one darkest; failures as crosses.

    Of very many rounds a column shows several: the slowest reply, and a cross if one is missing.
    """
    figure = new_figure(56 + _ROW_HEIGHT * len(sites))
    axes = figure.add_subplot()
    slowest = max(seconds.values(), default=0.0) or 1.0
    last = max((number for _, number in (*seconds, *failed)), default=1)
    span, places = count_rounds_per_column(last, len(sites)), {site: place for place, site in enumerate(sites)}
    for (site, first), took in _find_slowest(seconds, span).items():
        corner = (first - 0.46, places[site] - 0.4)
        shade = 0.1 + 0.9 * (took / slowest)
        axes.add_patch(Rectangle(corner, span - 0.08, 0.8, color=ACCENT, alpha=shade, linewidth=0))
    for site, first in sorted({(site, _find_first_round(number, span)) for site, number in failed}):
        axes.plot([first + (span - 1) / 2], [places[site]], "x", color=ALERT, markersize=8, markeredgewidth=2)
    axes.set_xlim(0.4, last + 0.6)
    axes.set_yticks(range(len(sites)), [shorten_name(site) for site in sites])
    axes.set_ylim(len(sites) - 0.5, -0.5)
    _style_row_axis(axes, _name_rounds(span))
    axes.grid(visible=False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    return figure


def count_rounds_per_column(rounds: int, rows: int = 1) -> int:
    """Return how many rounds share a column of a chart with so many rows."""
    return max(1, math.ceil(rounds / _MOST_COLUMNS), math.ceil(rounds * rows / _MOST_CELLS))


def _name_rounds(span: int) -> str:
    return "round" if span == 1 else f"round ({span} to a column)"


def _find_first_round(number: int, span: int) -> int:
    """Return the first round of a round's column."""
    return number - (number - 1) % span


def _find_slowest(seconds: Mapping[tuple[str, int], float], span: int) -> dict[tuple[str, int], float]:
    """Return the slowest reply by site and first round of a column."""
    found: dict[tuple[str, int], float] = {}
    for (site, number), took in seconds.items():
        key = site, _find_first_round(number, span)
        found[key] = max(took, found.get(key, took))
    return found


def _average(values: Sequence[float], span: int) -> list[float]:
    """Return the mean of every `span` values."""
    parts = [values[start : start + span] for start in range(0, len(values), span)]
    return [sum(part) / len(part) for part in parts]


def shorten_name(name: str) -> str:
    """Return a name that fits next to a chart."""
    return name if len(name) <= _MAX_NAME_LENGTH else f"{name[: _MAX_NAME_LENGTH - 1]}…"


def _style_row_axis(axes: Axes, label: str) -> None:
    """Style an axis that has a name per row."""
    axes.set_xlabel(label)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.grid(axis="x")


def _style_bytes_axis(axes: Axes) -> None:
    _style_row_axis(axes, "")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=4))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: wording.format_bytes(value, exact=False)))
