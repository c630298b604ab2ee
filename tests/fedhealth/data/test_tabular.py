from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhealth.config.schema import ColumnKind, FaultyCells, TabularColumnConfig
from fedhealth.data.tabular import count_features, encode_columns
from fedhealth.errors import DataError

FILE = Path("site/manifest.csv")
NUMERIC = TabularColumnConfig(center=10, scale=2, missing_codes=["-9"])
SEX = TabularColumnConfig(kind=ColumnKind.categorical, levels=["F", "M"], missing_codes=["unknown"])


def table(**columns):
    size = len(next(iter(columns.values())))
    return pd.DataFrame({"line": range(2, size + 2)} | {f"tabular.{name}": cells for name, cells in columns.items()})


def test_numbers_are_centred_and_missing_ones_are_marked():
    features, present, _ = encode_columns(table(crp=["14", "", "-9", "1e1"]), {"crp": NUMERIC}, FILE)
    np.testing.assert_array_equal(features, np.array([[2, 0], [0, 1], [0, 1], [0, 0]], np.float32))
    np.testing.assert_array_equal(present, [True, False, False, True])
    assert features.dtype == np.float32


def test_levels_are_one_hot_and_missing_ones_are_marked():
    features, present, _ = encode_columns(table(sex=["M", "", "unknown", "F"]), {"sex": SEX}, FILE)
    np.testing.assert_array_equal(features, [[0, 1, 0], [0, 0, 1], [0, 0, 1], [1, 0, 0]])
    np.testing.assert_array_equal(present, [True, False, False, True])


def test_numbered_levels_may_come_as_decimals():
    column = TabularColumnConfig(kind=ColumnKind.categorical, levels=["1", "2"])
    features, _, _ = encode_columns(table(grade=["2.0", "1"]), {"grade": column}, FILE)
    np.testing.assert_array_equal(features, [[0, 1, 0], [1, 0, 0]])


def test_a_row_is_present_if_any_column_is():
    columns = {"crp": NUMERIC, "sex": SEX}
    features, present, _ = encode_columns(table(crp=["", "", "12"], sex=["", "F", ""]), columns, FILE)
    assert features.shape == (3, count_features(columns)) == (3, 5)
    np.testing.assert_array_equal(present, [False, True, True])


def test_no_columns_give_no_features():
    features, present, _ = encode_columns(table(x=["1", "2"]), {}, FILE)
    assert features.shape == (2, 0)
    assert not present.any()


@pytest.mark.parametrize("cell", ["NaN", "inf", "-Infinity", "12,5", "high", "1e30", "-3e6", "1e400"])
def test_what_is_no_finite_number_is_refused_with_column_and_line(cell):
    with pytest.raises(DataError) as caught:
        encode_columns(table(crp=["1", cell]), {"crp": NUMERIC}, FILE)
    assert caught.value.problem.startswith("site/manifest.csv: column 'crp', line 3: ")
    assert "leave a cell empty" in caught.value.advice


def test_an_unknown_level_is_refused_with_the_known_ones():
    with pytest.raises(DataError, match="column 'sex', line 2, 4: 'X': not a level; levels are F, M"):
        encode_columns(table(sex=["X", "F", "X"]), {"sex": SEX}, FILE)


@pytest.mark.parametrize("cell", ["", "-9"])
def test_a_required_column_may_not_be_empty(cell):
    column = TabularColumnConfig(required=True, missing_codes=["-9"])
    with pytest.raises(DataError, match="column 'crp' is required but empty in line 3"):
        encode_columns(table(crp=["1", cell]), {"crp": column}, FILE)


@given(st.lists(st.none() | st.floats(-1e3, 1e3), min_size=1, max_size=30), st.floats(-10, 10), st.floats(1, 100))
def test_encoding_can_be_undone_and_depends_on_the_row_alone(values, center, scale):
    column = TabularColumnConfig(center=center, scale=scale)
    cells = ["" if value is None else repr(value) for value in values]
    features, present, _ = encode_columns(table(x=cells), {"x": column}, FILE)
    alone = np.concatenate([encode_columns(table(x=[cell]), {"x": column}, FILE)[0] for cell in cells])
    np.testing.assert_array_equal(features, alone)
    np.testing.assert_array_equal(present, [value is not None for value in values])
    expected = [center if value is None else value for value in values]
    np.testing.assert_allclose(features[:, 0] * scale + center, expected, rtol=1e-5, atol=1e-3)


def test_extreme_numbers_are_clipped_and_the_column_is_named_without_them():
    rows = table(crp=["210", "40010", "-500000", "10", ""])
    for faulty_cells in FaultyCells:
        features, _, (finding,) = encode_columns(rows, {"crp": NUMERIC}, FILE, faulty_cells=faulty_cells)
        assert features[:, 0].tolist() == [100, 1000, -1000, 0, 0]
        assert finding.serious
        assert finding.text.startswith("Column 'crp': 2 value(s) are over 100 scales from its center (training clips")
        assert "40010" not in finding.text


def test_where_faults_count_as_missing_no_cell_is_an_error(tmp_path):
    columns = {
        "crp": TabularColumnConfig(center=10.0, scale=1e-300, required=True),
        "sex": TabularColumnConfig(kind=ColumnKind.categorical, levels=["F", "M"]),
    }
    rows = table(crp=["10", "1e9", "", "high", "10"], sex=["F", "M", "X", "", "unknown"])
    features, present, findings = encode_columns(rows, columns, FILE, faulty_cells=FaultyCells.missing)
    assert features[:, 1].tolist() == [0, 1, 1, 1, 0]
    assert features[:, 0].tolist() == [0, 0, 0, 0, 0]
    assert features[:, 2:].tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1], [0, 0, 1]]
    assert present.tolist() == [True, True, False, False, True]
    assert [each.text for each in findings] == [
        "Column 'crp': 2 value(s) do not fit the description and count as missing.",
        "Column 'crp' is required but missing in 1 row(s).",
        "Column 'sex': 2 value(s) do not fit the description and count as missing.",
    ]
    assert all(each.serious for each in findings)
    for name in columns:
        with pytest.raises(DataError):
            encode_columns(rows, {name: columns[name]}, FILE)
