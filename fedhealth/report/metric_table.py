"""One table for metrics with their confidence intervals, whatever they are of."""

from __future__ import annotations

import math
from collections.abc import Mapping

from fedhealth.evaluation.metrics import Estimate
from fedhealth.report.noise_notes import LOST
from fedhealth.report.page import Cell, ReportTable
from fedhealth.report.wording import METRIC_NAMES, UNDEFINED, format_interval, format_number

_HEAD = ("Metric", "Value", "95\N{NO-BREAK SPACE}% interval")


def build_metric_table(caption: str, metrics: Mapping[str, Estimate], *, is_noised: bool) -> ReportTable:
    """Return a row for each metric.

    Args:
        caption: of the table.
        metrics: estimates by metric name; NaN where one has no value.
        is_noised: whether a missing value is lost in noise, and not undefined.

    """
    missing = LOST if is_noised else UNDEFINED
    rows = tuple(
        (
            Cell(METRIC_NAMES[name]),
            Cell(missing if math.isnan(estimate.value) else format_number(estimate.value)),
            Cell(format_interval(estimate) or "–"),
        )
        for name, estimate in metrics.items()
    )
    return ReportTable(caption, _HEAD, rows)
