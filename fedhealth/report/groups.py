"""Compare the final model's metrics between groups of patients."""

from __future__ import annotations

import math

from fedhealth.report.noise_notes import compute_half_width, count_least_studies
from fedhealth.report.page import Cell, ReportTable, Section
from fedhealth.report.verdict import Verdict, judge_gain
from fedhealth.report.wording import (
    METRIC_NAMES,
    format_count,
    format_estimate,
    format_integer,
    format_interval,
    format_noised_count,
    format_number,
    join_words,
)
from fedhealth.runs.record import RunRecord
from fedhealth.runs.results import GroupingResult, GroupResult, HistogramNoise

_PRIVATE = (
    "Whether the model works equally well for all groups is not reported: with differential privacy, counts of groups "
    "need a part of the privacy budget (privacy.subgroup_release_share). Each hospital can check this on its own "
    "patients."
)
_TOO_SMALL = "No two groups are large enough for a comparison."
_SHOWN = ("auroc", "balanced_accuracy", "calibration_error")


def build_groups_section(run: RunRecord) -> Section | None:
    """Return the section with the final model's metrics by group."""
    if not run.groupings:
        asked = run.is_private and run.get_setting("evaluation.subgroups")
        return Section("groups", "Groups of patients", _PRIVATE) if asked else None
    head = ("Group", "Studies", *(METRIC_NAMES[name] for name in _SHOWN))
    tables = tuple(
        ReportTable(_build_caption(run, each), head, tuple(_build_row(group, each.noise) for group in each.groups))
        for each in run.groupings
    )
    uneven = [each for each in run.groupings if judge_gain(each.gap) is Verdict.better]
    scored = any(not math.isnan(each.gap.value) for each in run.groupings)
    even = "There is no difference in AUROC between groups beyond chance." if scored else _TOO_SMALL
    lead = " ".join(map(describe_gap, uneven)) or even
    notes = (
        "A gap is the AUROC of the best group minus that of the worst; choosing both after scoring makes the gap look "
        f"larger. {_explain_suppression(run)}",
    )
    return Section("groups", "Groups of patients", lead, tables=tables, notes=notes)


def _explain_suppression(run: RunRecord) -> str:
    """Say which groups are not scored, and with noise, how large it is."""
    least, noise = run.get_setting("evaluation.min_group", 10), run.groupings[0].noise
    few = f"Groups with fewer than {least} studies with or without the finding are not scored"
    if noise is None:
        return f"{few}, and a hospital with fewer than {least} patients in a group reports nothing about that variable."
    needed = format_integer(count_least_studies(noise))
    return (
        f"The scores by group hold noise of their own, with a standard deviation of {noise.count_std:.1f} studies in "
        f"every count and {noise.studies_std:.0f} in the number of a group's studies; the intervals include it. {few}; "
        f"with this noise, {needed} of each are needed."
    )


def _build_caption(run: RunRecord, grouping: GroupingResult) -> str:
    """Return the caption with the number of test studies in the table; hospitals with small groups are excluded."""
    if grouping.noise is not None:
        return f"By {grouping.variable}, with noise"
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


def _build_row(group: GroupResult, noise: HistogramNoise | None) -> tuple[Cell, ...]:
    cells = [Cell(group.name), Cell(format_group_studies(group, noise))]
    for name in _SHOWN:
        if (score := group.metrics.get(name)) is None:
            cells.append(Cell(explain_missing_score(noise)))
        else:
            cells.append(Cell(format_number(score.value), format_interval(score)))
    return tuple(cells)


def format_group_studies(group: GroupResult, noise: HistogramNoise | None) -> str:
    """Return a group's number of studies; with noise, `about 390 ± 41 studies`."""
    if group.studies is None:
        return explain_missing_score(noise)
    if noise is None:
        return format_integer(group.studies)
    return format_noised_count(group.studies, compute_half_width(noise), "study")


def explain_missing_score(noise: HistogramNoise | None) -> str:
    """Say why a group has no score."""
    return "too few" if noise is None else "too few, or lost in the noise"
