import json

from fedhealth.report.groups import build_groups_section
from fedhealth.runs.load_record import load_run_record
from fedhealth.runs.run_dir import GROUPS_FILE


def score(value):
    return {"value": value, "low": value - 0.01, "high": value + 0.01}


def grouping(gap):
    rows = [
        {
            "group": "F",
            "studies": 90,
            "auroc": score(0.9),
            "balanced_accuracy": score(0.8),
            "calibration_error": score(0.1),
        },
        {
            "group": "M",
            "studies": 80,
            "auroc": score(0.8),
            "balanced_accuracy": score(0.7),
            "calibration_error": score(0.1),
        },
        {"group": "X", "studies": None, "auroc": None, "balanced_accuracy": None, "calibration_error": None},
    ]
    return [{"variable": "sex", "groups": rows, "gap": gap}]


def section(run, gap):
    (run.write() / GROUPS_FILE).write_text(json.dumps(grouping(gap)))
    return build_groups_section(load_run_record(run.folder))


def test_who_is_served_worse_is_said_first(run, notices_of):
    shown = section(run, {"value": 0.1, "low": 0.05, "high": 0.15})
    assert (
        shown.lead == "By sex, the AUROC of M (0.800) and F (0.900) differs by 0.100 [0.050,\N{NO-BREAK SPACE}0.150]."
    )
    assert [cell.text for cell in shown.tables[0].rows[2]] == ["X", "too few", "too few", "too few", "too few"]
    assert "The model does not work equally well for all groups by sex" in notices_of()


def test_a_gap_that_may_be_chance_is_called_so(run, notices_of):
    shown = section(run, {"value": 0.1, "low": -0.05, "high": 0.25})
    assert shown.lead.startswith("There is no difference in AUROC between groups beyond chance")
    assert not any("groups by sex" in title for title in notices_of())


def test_without_groups_there_is_no_section(run):
    assert build_groups_section(load_run_record(run.write())) is None


def test_private_training_says_that_it_says_nothing(run):
    run.make_private(epsilon=3)
    run.config += "evaluation: {subgroups: {sex: []}}\n"
    shown = build_groups_section(load_run_record(run.write()))
    assert shown.lead.startswith("Whether the model works equally well for all groups is not reported")
    assert "privacy.subgroup_release_share" in shown.lead
    assert shown.tables == ()


def test_private_scores_of_groups_are_shown_with_their_noise(run):
    run.make_private(epsilon=3)
    [by_sex] = grouping({"value": 0.1, "low": -0.05, "high": 0.25})
    noise = {"count_std": 6.2, "studies_std": 30.4, "cells": 12, "classes_scored": 2}
    (run.write() / GROUPS_FILE).write_text(json.dumps([by_sex | {"noise": noise}]))
    shown = build_groups_section(load_run_record(run.folder))
    assert shown.lead.startswith("There is no difference in AUROC between groups beyond chance")
    assert shown.tables[0].caption == "By sex, with noise"
    text = [[cell.text.replace("\N{NO-BREAK SPACE}", " ") for cell in row] for row in shown.tables[0].rows]
    assert text[0][:3] == ["F", "about 90 ± 60 studies", "0.900"]
    assert text[2][1:] == ["too few, or lost in the noise"] * 4
    [note] = shown.notes
    assert "standard deviation of 6.2 studies in every count and 30 in the number" in note
    assert "86 of each are needed" in note  # four deviations of twelve cells


def test_groups_that_are_all_too_small_are_not_called_equal(run):
    assert section(run, None).lead == "No two groups are large enough for a comparison."
