"""A report says what a calibration makes of the scores, and at which threshold studies are decided."""

import json

import pytest

from fedhealth.api.run import load_run
from fedhealth.export.model_card import build_model_card
from fedhealth.report.notices import collect_notices
from fedhealth.report.render import render_run_report
from fedhealth.runs.load_record import load_run_record
from tests.fedhealth.report.test_noise_notes import read_text
from tests.fedhealth.run_writer import interval

TITLE = "The scores are not probabilities"
METRICS = {"balanced_accuracy": interval(0.761), "calibration_error": interval(0.061)}
THRESHOLDS = {"A": [0.19], "B & <b>C</b>": [0.47], "D$x$": [0.28]}
POOLED = METRICS | {"classes": [{"temperature": 1.4, "offset": 2.0, "threshold": 0.31}]}


@pytest.fixture(name="poor")
def poor_(run):
    """A run whose raw scores are poor probabilities."""
    run.comparison["models"][0]["pooled"]["calibration_error"] = interval(0.3)
    run.evaluation["test"]["calibration_error"] = interval(0.3)
    return run


def read_notice(run):
    return {each.title: each.text for each in collect_notices(load_run_record(run.write()))}[TITLE]


def test_each_hospitals_calibration_is_a_table_with_its_thresholds(poor):
    poor.comparison["calibrated"] = METRICS | {"thresholds": THRESHOLDS}
    assert "With each hospital's calibration the error is 0.061 [0.041" in read_notice(poor)
    page = read_text(render_run_report(poor.folder))
    assert "With each hospital&#39;s calibration Metric Value 95 % interval Balanced accuracy 0.761" in page
    assert "0.19 (A), 0.47 (B &amp; &lt;b&gt;C&lt;/b&gt;) and 0.28 (D$x$)" in page
    card = build_model_card(poor.folder)
    assert "| Balanced accuracy, calibrated | 0.761 |" in card
    metrics = load_run(poor.folder).metrics
    assert metrics.loc[("test_calibrated", "calibration_error"), "value"] == 0.061
    assert metrics.loc[("test_calibrated", "balanced_accuracy"), "low"] == pytest.approx(0.741)
    assert metrics.loc[("test", "calibration_error"), "value"] == 0.3


def test_a_deployment_shows_one_calibration_for_all(poor):
    poor.comparison = None
    poor.evaluation["test"]["calibrated"] = POOLED
    told = read_notice(poor)
    assert "With one calibration for all hospitals the error is 0.061" in told
    assert "fedhealth site calibrate" in told
    page = read_text(render_run_report(poor.folder))
    assert "With one calibration for all hospitals Metric" in page
    assert "0.31 (all hospitals)" in page


def test_without_a_calibration_the_notice_says_how_to_get_one(poor):
    poor.comparison["calibrated"] = None
    assert read_notice(poor).endswith(
        "Calibrate it before a score is read as a probability: `fedhealth site calibrate`."
    )
    assert "test_calibrated" not in load_run(poor.folder).metrics.index


def test_a_calibration_that_the_noise_hides_is_not_shown(poor):
    poor.comparison = None
    poor.evaluation["test"]["calibrated"] = {name: interval(None) for name in METRICS} | {"classes": [None]}
    assert "fedhealth site calibrate" in read_notice(poor)
    assert "one calibration for all" not in read_text(render_run_report(poor.folder))


def test_many_thresholds_are_a_range(poor):
    many = {f"site-{number}": [0.1 + 0.05 * number, 0.5] for number in range(9)}
    poor.comparison["calibrated"] = METRICS | {"thresholds": json.loads(json.dumps(many))}
    assert "0.10 to 0.50" in read_text(render_run_report(poor.write()))
