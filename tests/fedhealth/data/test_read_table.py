import numpy as np
import pandas as pd
import pytest

from fedhealth.data.read_table import read_table
from fedhealth.errors import DataError


def write(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize(
    "text",
    [
        "id;y\n7;1\n",
        "sep=;\r\nid;y\r\n7;1\r\n",
        "id;y;;;\n7;1;;;\n;;;;\n",
        "Export of today;;\n\nid;y;\n7;1;\n",
        '"id"\t"y"\n7\t1\n',
    ],
)
def test_habits_of_spreadsheets(tmp_path, text):
    assert read_table(write(tmp_path / "t.csv", text)).columns == {"id": ["7"], "y": ["1"]}


def test_lines_are_those_of_the_file(tmp_path):
    table = read_table(write(tmp_path / "t.csv", 'sep=;\nExport\nid;y\n7;"a\nb"\n\n8;c\n'))
    assert table.lines == [4, 7]
    assert table.notes == ("1 line(s) above the header are left out",)


def test_commas_in_texts_do_not_make_a_comma_the_separator(tmp_path):
    assert list(read_table(write(tmp_path / "t.csv", "id;text\n1;a, b, c\n2;d, e\n")).columns) == ["id", "text"]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-16", "cp1252"])
def test_encodings(tmp_path, encoding):
    table = read_table(write(tmp_path / "t.csv", "id;Befund\n7;Größe\n" * 1 + "8;schön\n", encoding))
    assert table.columns["Befund"] == ["Größe", "schön"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a,b,a\n1,2,3\n", "two columns have the same name: 'a'"),
        ("a,,b\n1,2,3\n", "column 2 has no name"),
        ("a,b\n1,2\n3\n", "line 3 has fewer cells"),
        ("", "no rows"),
    ],
)
def test_what_is_refused(tmp_path, text, problem):
    with pytest.raises(DataError, match=problem):
        read_table(write(tmp_path / "t.csv", text))


def test_numbers_that_lost_digits_keep_their_exponent(tmp_path):
    path = tmp_path / "t.parquet"
    pd.DataFrame({"id": [2.0**53 + 2, 7.0, np.nan]}).to_parquet(path)
    assert read_table(path).columns["id"] == ["9.00719925474099400E+15", "7", ""]


def test_a_workbook(tmp_path):
    openpyxl = pytest.importorskip("openpyxl", reason="openpyxl reads Excel files; it is an extra")
    book = openpyxl.Workbook()
    for row in (["Export"], [], ["id", "when", "y"], [7, pd.Timestamp("2020-01-31"), True], [8.0, None, 1.5]):
        book.active.append(row)
    book.create_sheet("more").append(["x"])
    book.save(tmp_path / "t.xlsx")
    table = read_table(tmp_path / "t.xlsx")
    assert table.columns == {"id": ["7", "8"], "when": ["2020-01-31T00:00:00", ""], "y": ["1", "1.5"]}
    assert table.lines == [4, 5]
    assert table.notes == ("1 more sheet(s) are not read", "1 line(s) above the header are left out")
