import numpy as np
import pytest

from fedhealth.config.schema import ColumnsConfig, DataConfig, TaskConfig
from fedhealth.data.findings import DataFinding, FindingKind, dump_findings, parse_findings, sort_findings
from fedhealth.data.plausibility import find_cohort_findings

DATA = DataConfig(name="t", root="", sites=["a"], columns=ColumnsConfig(), task=TaskConfig(classes=["mild", "severe"]))


def rows(count=12, **changed):
    arrays = {
        "patient": np.arange(count),
        "split": np.zeros(count, np.int8),
        "labels": (np.arange(count) % 2).astype(np.float32)[:, None],
        "image_index": np.arange(count),
        "tabular": np.zeros((count, 0), np.float32),
        "tabular_present": np.zeros(count, bool),
    }
    return arrays | changed


def texts_of(found):
    return [each.text for each in find_cohort_findings(found, [""] * len(found["split"]), DATA)]


def test_a_plausible_cohort_is_silent():
    assert texts_of(rows()) == []


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"patient": np.array([0] * 11 + [1])}, "One patient has 11 of 12 rows"),
        ({"labels": np.array([[np.nan]] * 10 + [[0], [1]], np.float32)}, "10 of 12 rows have no label"),
        ({"labels": np.ones((12, 1), np.float32)}, "one class (severe)"),
        ({"image_index": np.where(np.arange(12) % 2, np.arange(12), -1)}, "Only rows of class severe have an image"),
    ],
)
def test_what_is_implausible_is_said(changed, said):
    assert any(said in text for text in texts_of(rows(**changed)))


def test_findings_survive_json_and_are_sorted():
    found = [DataFinding(FindingKind.values, "a"), DataFinding(FindingKind.labels, "b", True)]
    assert parse_findings(dump_findings(found)) == tuple(found)
    assert [each.text for each in sort_findings([*found, *found])] == ["b", "a"]
