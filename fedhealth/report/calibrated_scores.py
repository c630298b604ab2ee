"""Describe what a calibration makes of the final model's test scores: a table, and how studies are decided."""

from __future__ import annotations

import math

from fedhealth.report.metric_table import build_metric_table
from fedhealth.report.page import ReportTable
from fedhealth.report.wording import format_estimate, format_number, join_words
from fedhealth.runs.results import CalibratedResult, SplitResult

_SHARE = "the share of the calibrating studies that have the class, which are validation studies, never test studies"
_MOST_NAMED = 6  # hospitals whose thresholds are listed one by one


def build_calibrated_table(result: SplitResult, caption: str = "") -> ReportTable | None:
    """Return the metrics with calibrated scores; None without a calibration.

    Args:
        result: of the test split.
        caption: of the table; empty for whose calibration it is.

    """
    calibrated = result.calibrated
    if calibrated is None:
        return None
    caption = caption or f"With {_name_calibration(calibrated)}"
    return build_metric_table(caption, calibrated.metrics, is_noised=result.noise is not None)


def describe_thresholds(calibrated: CalibratedResult | None) -> tuple[str, ...]:
    """Return how studies are decided with the calibration; empty without one."""
    if calibrated is None:
        return ()
    source = "`fedhealth predict --calibration`" if calibrated.is_by_hospital else "a sum of validation scores"
    return (
        f"Calibrated: the probabilities are those of {source}. Balanced accuracy is then that of a decision at a "
        f"threshold, {_SHARE}: {_list_thresholds(calibrated)}. Without calibration it is that at 0.5.",
    )


def describe_benefit(calibrated: CalibratedResult | None) -> str:
    """Return what the calibration brings, or how to get one, in one or two sentences."""
    if calibrated is None:
        return "Calibrate it before a score is read as a probability: `fedhealth site calibrate`."
    error, accuracy = (calibrated.metrics[name] for name in ("calibration_error", "balanced_accuracy"))
    if math.isnan(error.value):
        return "A hospital calibrates it with its own studies: `fedhealth site calibrate`."
    reached = (
        f"With {_name_calibration(calibrated)} the error is {format_estimate(error)}, and the balanced accuracy "
        f"{format_estimate(accuracy)}"
    )
    how = "`fedhealth predict --calibration`" if calibrated.is_by_hospital else "its own: `fedhealth site calibrate`"
    return f"{reached}. Read a score as a probability only with {how}."


def _name_calibration(calibrated: CalibratedResult) -> str:
    return "each hospital's calibration" if calibrated.is_by_hospital else "one calibration for all hospitals"


def _list_thresholds(calibrated: CalibratedResult) -> str:
    """Return the thresholds by hospital; the range where there are many or several classes."""
    known = {name: [each for each in own if not math.isnan(each)] for name, own in calibrated.thresholds.items()}
    values = [each for own in known.values() for each in own]
    if len(known) <= _MOST_NAMED and all(len(own) == 1 for own in known.values()):
        return join_words([f"{format_number(own[0], 2)} ({name})" for name, own in known.items()])
    return f"{format_number(min(values), 2)} to {format_number(max(values), 2)}"
