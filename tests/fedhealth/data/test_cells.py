import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhealth.config.schema import ColumnKind, TabularColumnConfig, TaskConfig, TaskKind
from fedhealth.data.cells import CellFormat, parse_labels, parse_values

CRP = TabularColumnConfig(missing_codes=["9999"], unit="mg/l", conversions={"mg/dl": 10.0}, valid_range=[0, 500])


@given(st.lists(st.floats(0, 500) | st.none(), max_size=20))
def test_values_parse_to_themselves(values):
    cells = ["" if value is None else repr(value) for value in values]
    once = parse_values(cells, CRP, CellFormat())
    again = parse_values(once.values, CRP, CellFormat())
    assert (once.faults, once.outside) == ({}, 0)
    assert again.values == once.values


@pytest.mark.parametrize(
    ("cell", "given_", "value"),
    [
        ("9999.0", CellFormat(), ""),
        ("9999,0", CellFormat(","), ""),
        ("2,5", CellFormat(","), "2.5"),
        ("1.234,5", CellFormat(",", "mg/dl"), ""),
        ("2.5 mg/dl", CellFormat(), "25.0"),
        ("2.5", CellFormat(unit="mg/dl"), "25.0"),
        ("1e30", CellFormat(), ""),
        ("inf", CellFormat(), ""),
        ("normal", CellFormat(words={"normal": "1"}), "1.0"),
    ],
)
def test_what_is_declared_is_read(cell, given_, value):
    found = parse_values([cell], CRP, given_)
    assert (found.values, found.faults) == ([value], {})


@pytest.mark.parametrize("cell", ["2,5", "1,234.5", "<5", "5 nmol/l", "nan", "high", "1.2.3"])
def test_nothing_is_guessed(cell):
    found = parse_values([cell], CRP, CellFormat())
    assert found.values == [""]
    assert found.faults[0]


def test_levels():
    sex = TabularColumnConfig(kind=ColumnKind.categorical, levels=["0", "1"], words={"w": "0"})
    assert parse_values(["1.0", "w", "", "2"], sex, CellFormat()).values == ["1", "0", "", ""]


@pytest.mark.parametrize(
    ("uncertain", "value"), [("missing", ""), ("0", "mild"), ("1", "severe"), ("drop", "-1"), (None, "")]
)
def test_uncertain_labels(uncertain, value):
    task = TaskConfig(classes=["mild", "severe"], uncertain=uncertain)
    found = parse_labels(["-1", "-1.0", "1"], task, CellFormat())
    assert found.values == [value, value, "severe"]
    assert bool(found.faults) == (uncertain is None)


def test_words_of_labels():
    task = TaskConfig(TaskKind.multilabel, ["edema"], words={"ja": "1"})
    assert parse_labels(["ja", "nein", "1.0"], task, CellFormat(words={"nein": "0"})).values == ["1", "0", "1"]
