import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedhealth.data.identifiers import hash_identifier
from fedhealth.errors import DataError
from fedhealth.ingest.settings import IngestTable, TextSettings
from fedhealth.ingest.tables import TableContext, TableRows, load_table

REPORT = "Befund: Größe unauffällig, Herz naß, Lungenödem weg, öfter über Übelkeit geklagt"


def table(path, **further):
    return IngestTable(path, {"patient": "id"}, {"text": "Text", "label": "y"}, **further)


def read(path, **further):
    found = load_table(table(path, **further), TableContext())
    if isinstance(found, DataError):
        raise found
    return found


def test_other_scripts(tmp_path):
    path = tmp_path / "a.csv"
    report = "Сердце не увеличено, лёгкие без очаговых и инфильтративных изменений, плевральные полости свободны"
    path.write_bytes(f'id,Text,y\n7,"{report}",1\n'.encode("cp1251"))
    assert read(path).cells["text"] == [report]


def test_several_encodings_in_one_file(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(f'id,Text,y\n7,"{REPORT}",1\n'.encode("cp1252") + f'8,"{REPORT}",0\n'.encode() + b"9,a\x81b,1\n")
    found = read(path)
    assert found.cells["text"] == [REPORT, REPORT, ""]
    assert "1 text(s) are set aside and count as missing: 1 damaged" in found.findings[0].text
    assert found.encoding == "cp1252 and utf-8"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252", "latin-1"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_encodings_and_separators(tmp_path, encoding, separator):
    path = tmp_path / "a.csv"
    lines = [separator.join(cells) for cells in (("id", "Text", "y"), ("7", f'"{REPORT}"', "1"), ("8", "", ""))]
    path.write_bytes("\r\n".join(lines).encode(encoding))
    found = read(path)
    assert found.cells == {"text": [REPORT, ""], "label": ["1", ""]}
    assert found.keys == {"patient": [hash_identifier("patient", "7"), hash_identifier("patient", "8")]}


def test_parquet_and_its_missing_values(tmp_path):
    path = tmp_path / "a.parquet"
    pd.DataFrame({"id": [7, 8], "Text": ["fine", None], "y": [1, None]}, dtype="object").to_parquet(path)
    assert read(path).cells == {"text": ["fine", ""], "label": ["1", ""]}


def test_blanks_around_identifiers_do_not_count():
    assert hash_identifier("patient", " 7 ") == hash_identifier("patient", "7") == hash_identifier("patient", 7)
    assert hash_identifier("patient", "07") != hash_identifier("patient", "7")
    assert hash_identifier("patient", " ") == hash_identifier("patient", None) == ""


def test_names_of_a_row_are_taken_out_of_its_report(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('id,who,Text,y\n7,"Okafor, Ada",Ada OKAFOR walks. Larsen too.,1\n')
    assert read(path, names=("who",)).cells["text"] == ["_ _ walks. Larsen too."]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "no rows"),
        (b"id,Text\n1,a\n", "no column 'y'"),
        (b"id,Text,y\n", "no rows"),
        (b"id,Text,y\n1,a,0,9\n1,a,0\n", "line 2 has more cells"),
        (b'id,Text,y\n1,"a,0\n', "cannot be read"),
        (b"\0\1\2" * 100, "no rows"),
        (b"id,Text,y,y\n1,a,0,1\n", "the same name"),
        (b"PK\3\4" + bytes(range(256)) * 20, "."),
    ],
)
def test_what_is_no_table_is_said(tmp_path, content, problem):
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=problem) as caught:
        read(path)
    assert str(path) in caught.value.problem
    assert caught.value.advice


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=300), suffix=st.sampled_from(["csv", "parquet"]))
def test_anything_is_a_table_or_a_fault(tmp_path, content, suffix):
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(b"id,Text,y\n" * (suffix == "csv") + content)
    found = load_table(table(path), TableContext())
    assert isinstance(found, TableRows | DataError)


def test_what_is_left_where_the_patterns_are_off_is_counted(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("id,Text,y,who\n7,Okafor coughs,1,Okafor\n8,fine,0,Okafor\n9,seen on 12.03.2021,0,\n")
    context = TableContext(TextSettings(deidentify=False))
    [found] = load_table(table(path, names=("who",)), context).findings
    assert found.serious
    assert "2 of 3 reports hold names of the table, dates, numbers or addresses" in found.text
    assert load_table(table(path, names=("who",)), TableContext()).findings == ()


@pytest.mark.parametrize(
    ("reports", "serious"), [(["only this", "only", "all of it"], True), (["only", "a", "b"], False)]
)
def test_reports_that_the_cleaning_empties_are_counted(tmp_path, reports, serious):
    path = tmp_path / "a.csv"
    pd.DataFrame({"id": [7, 8, 9], "Text": reports, "y": 1}).to_csv(path, index=False)
    [found] = load_table(table(path), TableContext(TextSettings(remove=("only", "this")))).findings
    assert f"{2 if serious else 1} of 3 reports are empty" in found.text
    assert found.serious == serious
