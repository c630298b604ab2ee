"""A benchmark's report: every figure beside its target, and all as one JSON object in the last line."""

import json

import pytest

from benchmarks.targets import Figure, report_figures


@pytest.mark.parametrize(
    ("sign", "value", "judged"),
    [("<=", 2.0, "<= 2  met"), ("<=", 2.001, "<= 2  MISSED"), (">=", 2.0, ">= 2  met"), (">=", 1.9, ">= 2  MISSED")],
)
def test_a_figure_is_judged_by_its_target(sign, value, judged):
    assert Figure("ratio", sign, 2).judge(value) == judged


def test_the_report_is_a_table_and_one_json_object(capsys):
    measured = [("ratio", 3.25), ("seconds", 0.123456789), ("absent", None), ("range", [1, 2]), ("bytes", 123_456_789)]
    found = report_figures(measured, [Figure("ratio", "<=", 2), Figure("absent", "<=", 1), Figure("left out", "<=", 1)])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(measured) + 1
    assert lines[0].split() == ["ratio", "3.25", "<=", "2", "MISSED"]
    assert lines[2].split() == ["absent", "None"]
    expected = {"ratio": 3.25, "seconds": 0.12346, "absent": None, "range": [1, 2], "bytes": 123_456_789}
    assert json.loads(lines[-1]) == found == expected
