"""Does the model serve all groups of patients alike?"""

from __future__ import annotations

import math

from fedhealth.report.page import Cell, Section, Table
from fedhealth.report.verdict import Verdict, verdict
from fedhealth.report.wording import METRIC_NAMES, bracket, counted, interval, listed, number
from fedhealth.runs.record import Group, Grouping, Run

_PRIVATE = (
    "Whether the model serves all groups alike is not told: with differential privacy, counts of groups would need a "
    "share of the budget. Each hospital can look at its own patients."
)
_TOO_SMALL = "No two groups are large enough to be compared."
_SHOWN = ("auroc", "balanced_accuracy", "calibration_error")


def groups(run: Run) -> Section | None:
    """Show the final model's scores by group."""
    if not run.groupings:
        return None
    if run.protected("privacy"):
        return Section("groups", "Groups of patients", _PRIVATE)
    head = ("Group", "Studies", *(METRIC_NAMES[name] for name in _SHOWN))
    tables = tuple(Table(_caption(run, each), head, tuple(map(_row, each.groups))) for each in run.groupings)
    uneven = [each for each in run.groupings if verdict(each.gap) is Verdict.better]
    scored = any(not math.isnan(each.gap.value) for each in run.groupings)
    even = "No difference in AUROC between groups is shown beyond chance." if scored else _TOO_SMALL
    lead = " ".join(map(unequal, uneven)) or even
    least = run.setting("evaluation.min_group", 10)
    notes = (
        "A gap is the AUROC of the best group less that of the worst; picking both afterwards makes it look larger. "
        f"Groups with fewer than {least} studies with or without the finding are not scored, and a hospital with fewer "
        f"than {least} patients in a group reports nothing of that variable.",
    )
    return Section("groups", "Groups of patients", lead, tables=tables, notes=notes)


def _caption(run: Run, grouping: Grouping) -> str:
    """Say how many of the test studies the table is about: hospitals with small groups are not in it."""
    told = sum(group.studies or 0 for group in grouping.groups)
    return f"By {grouping.variable}" + (f" ({told} of {counted(run.test.studies, 'test study')})" if run.test else "")


def unequal(grouping: Grouping) -> str:
    """Say which group is served worse than which, and by how much."""
    scored = [group for group in grouping.groups if "auroc" in group.metrics]
    order = sorted(scored, key=lambda group: group.metrics["auroc"].value)
    named = listed([f"{group.name} ({number(group.metrics['auroc'].value)})" for group in (order[0], order[-1])])
    return f"By {grouping.variable}, the AUROC of {named} differs by {interval(grouping.gap)}."


def _row(group: Group) -> tuple[Cell, ...]:
    scores = [group.metrics.get(name) for name in _SHOWN]
    told = [Cell("too few") if score is None else Cell(number(score.value), bracket(score)) for score in scores]
    return Cell(group.name), Cell("too few" if group.studies is None else str(group.studies)), *told
