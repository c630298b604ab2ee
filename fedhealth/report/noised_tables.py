"""The private scores of a rehearsal, beside its exact ones: what a private consortium's members would see."""

from __future__ import annotations

import math
from collections.abc import Iterator

from fedhealth.evaluation.metrics import Estimate
from fedhealth.report.calibrated_scores import build_calibrated_table
from fedhealth.report.noise_notes import LOST
from fedhealth.report.page import Cell, ReportTable
from fedhealth.report.wording import METRIC_NAMES, format_interval, format_number
from fedhealth.runs.record import RunRecord

_CAPTION = "As the members of a private consortium would see it, with noise"


def build_noised_tables(run: RunRecord) -> Iterator[ReportTable]:
    """Yield the noised metrics, and those with one calibration for all hospitals; nothing unless exact ones exist."""
    result = run.evaluation.get("test")
    if result is None or result.noise is None or not run.has_exact_test_result:
        return
    rows = tuple(
        (Cell(METRIC_NAMES[name]), Cell(_format_noised(estimate)), Cell(format_interval(estimate) or "–"))
        for name, estimate in result.metrics.items()
    )
    yield ReportTable(_CAPTION, ("Metric", "Value", "95\N{NO-BREAK SPACE}% interval"), rows)
    if calibrated := build_calibrated_table(result, f"{_CAPTION} and one calibration for all hospitals"):
        yield calibrated


def _format_noised(estimate: Estimate) -> str:
    return LOST if math.isnan(estimate.value) else format_number(estimate.value)
