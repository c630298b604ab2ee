"""The private scores of a rehearsal, beside its exact ones: what a private consortium's members would see."""

from __future__ import annotations

from collections.abc import Iterator

from fedhealth.report.calibrated_scores import build_calibrated_table
from fedhealth.report.metric_table import build_metric_table
from fedhealth.report.page import ReportTable
from fedhealth.runs.record import RunRecord

_CAPTION = "As the members of a private consortium would see it, with noise"


def build_noised_tables(run: RunRecord) -> Iterator[ReportTable]:
    """Yield the noised metrics, and those with one calibration for all hospitals; nothing unless exact ones exist."""
    result = run.evaluation.get("test")
    if result is None or result.noise is None or not run.has_exact_test_result:
        return
    yield build_metric_table(_CAPTION, result.metrics, is_noised=True)
    if calibrated := build_calibrated_table(result, f"{_CAPTION} and one calibration for all hospitals"):
        yield calibrated
