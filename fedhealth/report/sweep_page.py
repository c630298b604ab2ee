"""Build the page that compares several runs: table, trade-offs with privacy and traffic, learning curves."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from fedhealth.evaluation.metrics import PRIMARY_METRIC
from fedhealth.report import charts
from fedhealth.report.charts import ChartSeries, RunPoint
from fedhealth.report.page import Cell, Chart, Notice, Page, ReportTable, Section
from fedhealth.report.verdict import Verdict, judge_gain
from fedhealth.report.wording import (
    METRIC_NAMES,
    format_bytes,
    format_count,
    format_estimate,
    format_interval,
    format_number,
    join_words,
)
from fedhealth.runs.paired_bootstrap import RunDifference
from fedhealth.runs.table import RunEntry, find_pareto_front, list_indistinct_runs
from fedhealth.utils.privacy_text import format_delta, format_noise_multiplier, format_unit

_NAME = METRIC_NAMES[PRIMARY_METRIC]
_CHOICE_NOTE = (
    f"Runs are compared by their {_NAME} on validation rows; report the test {_NAME} of the chosen run. "
    "The validation score of the best of many runs is too optimistic, because the run was chosen for a high score."
)
_BOOTSTRAP_NOTE = (
    "The chosen run has the highest validation score. Gains come from a bootstrap on the same test patients for both "
    "runs, so the interval of a gain can exclude zero although the intervals of the two runs overlap. In rows marked "
    "“not paired”, only sums over hospitals were available. There is no correction for the number of comparisons."
)
_NOISE_NOTE = (
    "With differential privacy, scores are computed from histograms to which each hospital added noise once. The "
    "intervals include it, and a score that is lost in it is not reported. Runs are ranked only where the interval of "
    "their difference excludes zero."
)

_EPSILON = "epsilon"
_DIFFERENT = 1.05  # smallest ratio of costs for which a chart is drawn
_COSTS: tuple[tuple[str, str, Callable[[RunEntry], float]], ...] = (
    ("Utility and privacy", _EPSILON, lambda entry: entry.epsilon),
    ("Utility and traffic", "MB per hospital", lambda entry: entry.traffic / 1e6),
)


def build_sweep_page(entries: Sequence[RunEntry], sections: Sequence[Section] = ()) -> Page:
    """Return the page that compares several runs, with further sections below the table."""
    front, numbered = find_pareto_front(entries), list(enumerate(entries, start=1))
    parts = [
        _build_runs_section(numbered, front),
        *_build_trade_offs_section(numbered, front),
        *sections,
        *_build_learning_section(numbered),
    ]
    return Page(
        kind="Comparison of runs",
        title=" and ".join(dict.fromkeys(entry.run.info.name or entry.run.folder for entry in entries)),
        summary=summarize_sweep(entries),
        notices=tuple(_list_failures(entries)),
        sections=tuple(parts),
    )


def choose_best_run(entries: Sequence[RunEntry]) -> RunEntry | None:
    """Return the run with the highest validation score.

    None if no run has a score, or if noise may hide that another run is better.
    """
    best = _find_highest_run(entries)
    return None if best is None or list_indistinct_runs(best, entries) else best


def _find_highest_run(entries: Sequence[RunEntry]) -> RunEntry | None:
    return max(find_pareto_front(entries), key=lambda entry: entry.validation.value, default=None)


def summarize_sweep(entries: Sequence[RunEntry]) -> str:
    """Return the result of the comparison in a few sentences."""
    done = [entry for entry in entries if entry.state == "completed"]
    sentences = [f"{format_count(len(entries), 'run')}, {len(done)} completed."]
    front = find_pareto_front(entries)
    if (best := choose_best_run(entries)) is not None:
        sentences.append(f"The highest validation {_NAME} is {format_estimate(best.validation)}: {best.label}.")
        if not math.isnan(best.test.value):
            sentences.append(f"Its test {_NAME} is {format_estimate(best.test)}.")
        others = [entry.label for entry in front if entry is not best]
        if others:
            sentences.append(f"Less epsilon or less traffic, but a lower {_NAME}: {join_words(others)}.")
    else:
        sentences += _describe_refusal(entries)
    return " ".join(sentences)


def _describe_refusal(entries: Sequence[RunEntry]) -> list[str]:
    """Return why no run is chosen, if noise is the reason."""
    highest = _find_highest_run(entries)
    if highest is None:
        lost = any(entry.has_noise for entry in entries if entry.state == "completed")
        return [f"No run is chosen: every validation {_NAME} is lost in the noise of differential privacy."] * lost
    indistinct = [highest, *list_indistinct_runs(highest, entries)]
    scores = [f"{entry.label} ({format_estimate(entry.validation)})" for entry in indistinct]
    return [
        f"No run is chosen: the validation {_NAME} of {join_words(scores)} cannot be told apart, because the "
        "difference may be noise of differential privacy. More patients, a larger epsilon or a larger "
        "privacy.score_release_share would make it smaller."
    ]


def build_differences_section(best: RunEntry, differences: Sequence[RunDifference]) -> Section | None:
    """Return the section with the gain of the chosen run over the others on test patients."""
    if not differences:
        return None
    rows = tuple(
        (
            Cell(each.other.label, "" if each.paired else "not paired"),
            Cell(format_number(each.other.test.value), format_interval(each.other.test)),
            Cell(format_number(each.gain.value, sign=True), format_interval(each.gain, sign=True)),
            Cell(judge_gain(each.gain).value),
        )
        for each in differences
    )
    better = [each for each in differences if judge_gain(each.gain) is Verdict.better]
    lead = f"{best.label} is better than {len(better)} of {format_count(len(differences), 'other run')} beyond chance."
    head = ("Run", f"Test {_NAME}", "Gain of the chosen run", "")
    return Section(
        "differences",
        "Is the chosen run better?",
        lead,
        tables=(ReportTable("", head, rows),),
        notes=(_BOOTSTRAP_NOTE,),
    )


def _list_failures(entries: Sequence[RunEntry]) -> list[Notice]:
    return [
        Notice(f"{entry.label}: {entry.state}", entry.problem or "No reason is recorded.")
        for entry in entries
        if entry.state != "completed"
    ]


def _build_runs_section(numbered: Sequence[tuple[int, RunEntry]], front: Sequence[RunEntry]) -> Section:
    head = ("Run", f"Validation {_NAME}", f"Test {_NAME}", "Epsilon", "Traffic per hospital")
    rows = tuple(
        (
            Cell(f"{number}. {entry.label}", _format_state(entry, front)),
            *(Cell(format_number(score.value), format_interval(score)) for score in (entry.validation, entry.test)),
            _build_epsilon_cell(entry),
            Cell(format_bytes(entry.traffic) if entry.traffic else "–"),
        )
        for number, entry in numbered
    )
    notes = (_CHOICE_NOTE, *([_NOISE_NOTE] if any(entry.is_private for _, entry in numbered) else []))
    return Section("runs", "The runs", "", tables=(ReportTable("All runs", head, rows),), notes=notes)


def _build_epsilon_cell(entry: RunEntry) -> Cell:
    if (found := entry.guarantee) is None:
        return Cell("none")
    noise = f"noise multiplier {format_noise_multiplier(found.noise_multiplier)}"
    return Cell(
        f"{found.epsilon:.3g}", f"at delta {format_delta(found.delta)} for each {format_unit(found.unit)}, {noise}"
    )


def _format_state(entry: RunEntry, front: Sequence[RunEntry]) -> str:
    if entry.state != "completed":
        return entry.state
    return "on the Pareto front" if entry in front else ""


def _build_trade_offs_section(numbered: Sequence[tuple[int, RunEntry]], front: Sequence[RunEntry]) -> list[Section]:
    """Return the section with a chart of utility against each cost that differs between the runs."""
    scored = [(number, entry) for number, entry in numbered if not math.isnan(entry.validation.value)]
    drawn = []
    for title, axis, cost in _COSTS:
        known = [(number, entry) for number, entry in scored if 0 < cost(entry) < math.inf]
        if axis == _EPSILON:
            axis = _describe_epsilon_axis([entry for _, entry in known])
        costs = [cost(entry) for _, entry in known]
        if costs and max(costs) > _DIFFERENT * min(costs):
            points = [RunPoint(str(number), cost(entry), entry.validation, entry in front) for number, entry in known]
            description = f"Validation {_NAME} against {axis}; diamonds are the runs on the Pareto front. "
            description += "Runs of equal cost are drawn side by side."
            drawn.append(Chart(title, description, charts.draw_trade_off(points, axis, _NAME)))
    if not drawn:
        return []
    lead = (
        "A run is on the Pareto front if no other run is better in utility, epsilon or traffic and at least as good in "
        "the other two. Epsilons of different deltas or units are not compared."
    )
    return [Section("trade-offs", "Utility against privacy and traffic", lead, tuple(drawn))]


def _describe_epsilon_axis(entries: Sequence[RunEntry]) -> str:
    """Return the label of the axis: delta and unit if all runs have the same, else a hint at the table."""
    found = {(each.unit, format_delta(each.delta)) for entry in entries if (each := entry.guarantee)}
    if len(found) != 1:
        return f"{_EPSILON}, not all at one delta and for one unit: see the table"
    [(unit, delta)] = found
    return f"{_EPSILON} at delta {delta} for each {format_unit(unit)}"


def _build_learning_section(numbered: Sequence[tuple[int, RunEntry]]) -> list[Section]:
    lines = []
    for number, entry in numbered:
        curve = {
            each.number - 1: (each.pooled.get("validation") or {}).get(PRIMARY_METRIC) for each in entry.run.rounds
        }
        known = {after: float(value) for after, value in curve.items() if value is not None}
        if known:
            lines.append(ChartSeries(f"run {number}", list(known), list(known.values())))
    if not lines:
        return []
    best = max(lines, key=lambda line: line.y[-1])
    others = [line for line in lines if line is not best]
    description = f"Validation {_NAME} after each round; the run with the highest final value is bold."
    chart = Chart(f"Validation {_NAME}", description, charts.draw_curves(best, others, _NAME, many="other runs"))
    return [Section("learning", "How the models learned", "", (chart,))]
