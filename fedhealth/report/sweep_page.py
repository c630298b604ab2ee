"""Several runs on one page: the table, and what utility costs in privacy and traffic."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from fedhealth.evaluation.metrics import METRIC
from fedhealth.report import charts
from fedhealth.report.charts import Point, Series
from fedhealth.report.page import Cell, Chart, Notice, Page, Section, Table
from fedhealth.report.verdict import Verdict, verdict
from fedhealth.report.wording import METRIC_NAMES, bracket, counted, interval, listed, number, size
from fedhealth.runs.paired_bootstrap import Difference
from fedhealth.runs.table import Entry, pareto

_NAME = METRIC_NAMES[METRIC]
_CHOSEN = (
    f"Runs are compared by their {_NAME} on validation rows; the test {_NAME} of the chosen one is what to report. "
    "The best of many runs looks better than it is: its validation score was picked for being high."
)
_PAIRED = (
    "The chosen run has the highest validation score. Gains are resampled over the same test patients for both runs, "
    "so that an interval can exclude zero although the two runs' own intervals overlap; where a row says not paired, "
    "only sums over hospitals were at hand. There is no correction for the number of comparisons."
)
_NOISED = (
    "With differential privacy, scores come from histograms that each hospital noised once. With few patients they lie "
    "below the true ones, the more so the smaller epsilon is, and the intervals do not show it: a run with a larger "
    "epsilon may look better for its score's sake alone."
)

_DIFFERENT = 1.05  # how far costs must be apart for a drawing to show anything
_COSTS: tuple[tuple[str, str, Callable[[Entry], float]], ...] = (
    ("Utility and privacy", "epsilon", lambda entry: entry.epsilon),
    ("Utility and traffic", "MB per hospital", lambda entry: entry.traffic / 1e6),
)


def page_of(found: Sequence[Entry], sections: Sequence[Section] = ()) -> Page:
    """Return the page about several runs, with further sections below the table."""
    front, numbered = pareto(found), list(enumerate(found, start=1))
    parts = [_table(numbered, front), *_trade_offs(numbered, front), *sections, *_learning(numbered)]
    return Page(
        kind="Comparison of runs",
        title=" and ".join(dict.fromkeys(str(entry.run.about.get("name", entry.run.folder)) for entry in found)),
        summary=summary(found),
        notices=tuple(_failures(found)),
        sections=tuple(parts),
    )


def chosen(found: Sequence[Entry]) -> Entry | None:
    """Return the run with the highest validation score; None where none has one."""
    return max(pareto(found), key=lambda entry: entry.validation.value, default=None)


def summary(found: Sequence[Entry]) -> str:
    """Return what the runs show, in a few sentences."""
    done = [entry for entry in found if entry.state == "completed"]
    said = [f"{counted(len(found), 'run')}, {len(done)} completed."]
    front = pareto(found)
    if (best := chosen(found)) is not None:
        said.append(f"The highest validation {_NAME} is {interval(best.validation)}: {best.label}.")
        if not math.isnan(best.test.value):
            said.append(f"Its test {_NAME} is {interval(best.test)}.")
        others = [entry.label for entry in front if entry is not best]
        if others:
            said.append(f"Less privacy spent or less traffic, at some loss: {listed(others)}.")
    return " ".join(said)


def differences_section(best: Entry, found: Sequence[Difference]) -> Section | None:
    """Show what the chosen run gains over the others on test patients."""
    if not found:
        return None
    rows = tuple(
        (
            Cell(each.other.label, "" if each.paired else "not paired"),
            Cell(number(each.other.test.value), bracket(each.other.test)),
            Cell(number(each.gain.value, sign=True), bracket(each.gain, sign=True)),
            Cell(verdict(each.gain).value),
        )
        for each in found
    )
    better = [each for each in found if verdict(each.gain) is Verdict.better]
    lead = f"{best.label} is better than {len(better)} of {counted(len(found), 'other run')} beyond chance."
    head = ("Run", f"Test {_NAME}", "Gain of the chosen run", "")
    return Section("differences", "Is the chosen run better?", lead, tables=(Table("", head, rows),), notes=(_PAIRED,))


def _failures(found: Sequence[Entry]) -> list[Notice]:
    return [
        Notice(f"{entry.label}: {entry.state}", entry.problem or "No reason is on record.")
        for entry in found
        if entry.state != "completed"
    ]


def _table(numbered: Sequence[tuple[int, Entry]], front: Sequence[Entry]) -> Section:
    head = ("Run", f"Validation {_NAME}", f"Test {_NAME}", "Epsilon", "Traffic per hospital")
    rows = tuple(
        (
            Cell(f"{place}. {entry.label}", _standing(entry, front)),
            *(Cell(number(score.value), bracket(score)) for score in (entry.validation, entry.test)),
            Cell("none" if math.isinf(entry.epsilon) else f"{entry.epsilon:.3g}"),
            Cell(size(entry.traffic) if entry.traffic else "–"),
        )
        for place, entry in numbered
    )
    notes = (_CHOSEN, *([_NOISED] if any(entry.is_private for _, entry in numbered) else []))
    return Section("runs", "The runs", "", tables=(Table("All runs", head, rows),), notes=notes)


def _standing(entry: Entry, front: Sequence[Entry]) -> str:
    if entry.state != "completed":
        return entry.state
    return "on the Pareto front" if entry in front else ""


def _trade_offs(numbered: Sequence[tuple[int, Entry]], front: Sequence[Entry]) -> list[Section]:
    """Draw utility against each cost that differs between the runs."""
    judged = [(place, entry) for place, entry in numbered if not math.isnan(entry.validation.value)]
    drawn = []
    for title, axis, cost in _COSTS:
        known = [(place, entry) for place, entry in judged if 0 < cost(entry) < math.inf]
        costs = [cost(entry) for _, entry in known]
        if costs and max(costs) > _DIFFERENT * min(costs):
            points = [Point(str(place), cost(entry), entry.validation, entry in front) for place, entry in known]
            told = f"Validation {_NAME} against {axis}; diamonds are the runs that no other one beats. "
            told += "Runs of equal cost stand side by side."
            drawn.append(Chart(title, told, charts.frontier(points, axis, _NAME)))
    if not drawn:
        return []
    lead = "A run on the Pareto front is beaten by no other one in utility, epsilon and traffic together."
    return [Section("trade-offs", "What utility costs", lead, tuple(drawn))]


def _learning(numbered: Sequence[tuple[int, Entry]]) -> list[Section]:
    lines = []
    for place, entry in numbered:
        curve = {each.number - 1: (each.pooled.get("validation") or {}).get(METRIC) for each in entry.run.rounds}
        known = {after: float(value) for after, value in curve.items() if value is not None}
        if known:
            lines.append(Series(f"run {place}", list(known), list(known.values())))
    if not lines:
        return []
    best = max(lines, key=lambda line: line.y[-1])
    others = [line for line in lines if line is not best]
    told = f"Validation {_NAME} after so many rounds; the run that ends highest in bold."
    chart = Chart(f"Validation {_NAME}", told, charts.curves(best, others, _NAME, many="other runs"))
    return [Section("learning", "How the models learned", "", (chart,))]
