"""Compare the final model's metrics between groups of patients."""

from __future__ import annotations

import math

from fedhealth.report.page import Cell, ReportTable, Section
from fedhealth.report.verdict import Verdict, judge_gain
from fedhealth.report.wording import (
    METRIC_NAMES,
    format_count,
    format_estimate,
    format_interval,
    format_number,
    join_words,
)
from fedhealth.runs.record import RunRecord
from fedhealth.runs.results import GroupingResult, GroupResult

_PRIVATE = (
    "Whether the model works equally well for all groups is not reported: with differential privacy, counts of groups "
    "would need a share of the privacy budget. Each hospital can check this on its own patients."
)
_TOO_SMALL = "No two groups are large enough for a comparison."
_SHOWN = ("auroc", "balanced_accuracy", "calibration_error")


def build_groups_section(run: RunRecord) -> Section | None:
    """Return the section with the final model's metrics by group."""
    if not run.groupings:
        return None
    if run.is_private:
        return Section("groups", "Groups of patients", _PRIVATE)
    head = ("Group", "Studies", *(METRIC_NAMES[name] for name in _SHOWN))
    tables = tuple(
        ReportTable(_build_caption(run, each), head, tuple(map(_build_row, each.groups))) for each in run.groupings
    )
    uneven = [each for each in run.groupings if judge_gain(each.gap) is Verdict.better]
    scored = any(not math.isnan(each.gap.value) for each in run.groupings)
    even = "There is no difference in AUROC between groups beyond chance." if scored else _TOO_SMALL
    lead = " ".join(map(describe_gap, uneven)) or even
    least = run.get_setting("evaluation.min_group", 10)
    notes = (
        "A gap is the AUROC of the best group minus that of the worst; choosing both after scoring makes the gap look "
        f"larger. Groups with fewer than {least} studies with or without the finding are not scored, and a hospital "
        f"with fewer than {least} patients in a group reports nothing about that variable.",
    )
    return Section("groups", "Groups of patients", lead, tables=tables, notes=notes)


def _build_caption(run: RunRecord, grouping: GroupingResult) -> str:
    """Return the caption with the number of test studies in the table; hospitals with small groups are excluded."""
    counted = sum(group.studies or 0 for group in grouping.groups)
    return f"By {grouping.variable}" + (
        f" ({counted} of {format_count(run.test_result.studies, 'test study')})" if run.test_result else ""
    )


def describe_gap(grouping: GroupingResult) -> str:
    """Describe for which group the model works worst and best, and the difference."""
    scored = [group for group in grouping.groups if "auroc" in group.metrics]
    order = sorted(scored, key=lambda group: group.metrics["auroc"].value)
    named = join_words(
        [f"{group.name} ({format_number(group.metrics['auroc'].value)})" for group in (order[0], order[-1])]
    )
    return f"By {grouping.variable}, the AUROC of {named} differs by {format_estimate(grouping.gap)}."


def _build_row(group: GroupResult) -> tuple[Cell, ...]:
    scores = [group.metrics.get(name) for name in _SHOWN]
    cells = [
        Cell("too few") if score is None else Cell(format_number(score.value), format_interval(score))
        for score in scores
    ]
    return Cell(group.name), Cell("too few" if group.studies is None else str(group.studies)), *cells
