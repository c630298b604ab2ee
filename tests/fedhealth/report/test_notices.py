import json

import pytest

from fedhealth.data.findings import DataFinding, FindingKind, dump_findings
from fedhealth.report.notices import collect_notices
from fedhealth.runs.load_record import load_run_record
from tests.fedhealth.run_writer import metrics


def test_nothing_is_protected_in_a_plain_run(notices_of):
    found = notices_of()
    assert "No differential privacy" in found
    assert "No secure aggregation" in found
    assert "A rehearsal" in found


def test_a_protected_deployment_has_no_such_warning(run, notices_of):
    run.declare(trainer_is_private=True, lead_sees_single_updates=False, data_are_local=False)
    assert notices_of() == {}


def test_two_hospitals(run, notices_of):
    run.sites = run.sites[:2]
    assert "Only 2\xa0hospitals took part" in notices_of()


@pytest.mark.parametrize(
    ("gain", "title"),
    [
        (0.05, None),
        (0.01, "The gain over training alone is not significant"),
        (-0.05, "Federated training was worse than training alone"),
    ],
)
def test_the_gain_over_training_alone(run, notices_of, gain, title):
    run.comparison = run.compared({"alone, on average": gain})
    found = {key for key in notices_of() if "alone" in key}
    assert found == ({title} if title else set())


def test_a_single_modality_that_is_ahead_is_a_warning_also_if_it_may_be_chance(run):
    run.comparison = run.compared({"image only": -0.01, "text only": 0.01})
    found = {notice.title: notice for notice in collect_notices(load_run_record(run.write()))}
    assert found["Image alone may be better"].serious
    assert not found["Text alone may be enough"].serious


def test_a_model_that_may_be_a_coin_is_a_warning(run):
    title = "The model is not shown to be better than chance"
    for value, shown in ((0.53, False), (0.51, True), (0.4, True)):
        run.comparison, run.evaluation = None, {"test": {"studies": 90, "positives": [20], **metrics(value)}}
        found = {notice.title: notice for notice in collect_notices(load_run_record(run.write()))}
        assert (title in found) is shown
        assert not shown or found[title].serious


def test_a_result_that_the_noise_hides_is_a_warning(run):
    noise = {"count_std": 9.0, "studies_std": 40.0, "cells": 12, "classes_scored": 0}
    run.comparison, run.evaluation = None, {"test": {"studies": 90, "positives": [20], **metrics(None), "noise": noise}}
    found = {notice.title: notice for notice in collect_notices(load_run_record(run.write()))}
    assert found["The noise hides how good the model is"].serious
    assert "The model is not shown to be better than chance" not in found


@pytest.mark.parametrize(
    ("gain", "title"),
    [
        (0.05, "Federated training was better than pooling the data here"),
        (0.01, "No clear difference to pooling the data"),
        (-0.05, "Pooling the data would be better"),
    ],
)
def test_against_pooling(run, notices_of, gain, title):
    run.comparison = run.compared({"centralised": gain})
    assert title in notices_of()


def test_a_modality_that_is_better_alone_is_the_first_warning(run, notices_of):
    run.comparison = run.compared({"image only": -0.05, "text only": 0.2})
    first, text = next(iter(notices_of().items()))
    assert first == "Image alone is better than all modalities together"
    assert "model.modality_dropout" in text
    assert not any("may be enough" in title for title in notices_of())


def test_a_modality_that_does_as_well_alone(run, notices_of):
    run.comparison = run.compared({"image only": 0.01, "text only": 0.2})
    assert "Image alone may be enough" in notices_of()


def test_one_hospital_dominates(run, notices_of):
    assert "D$x$ dominates" not in notices_of()
    run.counts["D$x$"] = run.count(1000)
    assert notices_of()["D$x$ dominates"].startswith("It has 81\xa0% of")


def test_missed_rounds_and_the_reason(run, notices_of):
    run.failed = {("A", 1), ("A", 3)}
    assert notices_of()["A missed 2\xa0rounds"] == "Missing in rounds 1 and 3: no answer before the deadline."


def test_what_reading_the_data_found(run, notices_of):
    found = [
        DataFinding(FindingKind.labels, "Every labelled training row is of one class (benign).", True),
        DataFinding(FindingKind.files, "2 file(s) were set aside."),
    ]
    run.findings = {"A": dump_findings(found)}
    notices = notices_of()
    assert notices["Data of A may be wrong"] == "Every labelled training row is of one class (benign)."
    assert notices["Data of A"] == "2 file(s) were set aside."


def test_a_one_class_test_split_is_named(run, notices_of):
    events = run.default_events()
    answers = [event for event in events if event["event"] == "site_answered"]
    answers[-1]["own"] = {"validation": {"auroc": None}, "test": {"auroc": None}}
    run.events = events
    assert "No separate test result for D$x$" in notices_of()


def test_a_site_that_declined(run, notices_of):
    events = run.default_events()
    next(event for event in events if event["event"] == "handshake")["reasons"] = ["the configuration differs"]
    run.events = events
    assert notices_of()["A declined"] == "the configuration differs."


def test_a_failed_run_says_so(run, notices_of):
    run.info |= {"state": "failed", "error": {"problem": "Round 2: 1 of 3 sites answered."}}
    assert notices_of()["This run failed"] == "Round 2: 1 of 3 sites answered."


def test_a_weak_promise_is_said(run, notices_of):
    run.make_private(epsilon=12)
    assert "Epsilon 12 at delta chosen by each hospital gives little protection" in notices_of()


def test_hospitals_without_any_protection_are_said_first(run, notices_of):
    run.declare(data_are_local=False)
    assert next(iter(notices_of())).startswith("Between hospitals without differential privacy and without")


def test_more_traffic_than_training_is_said(run, notices_of):
    assert "More communication than training" not in notices_of()  # 3 rounds of 1.9 MB in 9 seconds
    run.events = [
        {**event, "sent": 9_000_000} if event["event"] == "site_answered" else event for event in run.default_events()
    ]
    assert "takes 15\N{NO-BREAK SPACE}s" in notices_of()["More communication than training"]


def test_scores_that_are_no_probabilities_are_said(run, notices_of):
    title = "The scores are not probabilities"
    run.comparison = None
    assert title not in notices_of()
    evaluation = json.loads((run.write() / "evaluation.json").read_text())
    evaluation["test"]["calibration_error"] = {"value": 0.3, "low": 0.28, "high": 0.33}
    (run.folder / "evaluation.json").write_text(json.dumps(evaluation))
    told = {notice.title: notice.text for notice in collect_notices(load_run_record(run.folder))}
    assert "0.300 [0.280" in told[title]
