"""Laboratory values and diagnoses from a database of 200 synthetic people: read only, the right value, a floor."""

import sqlite3
from pathlib import Path

import pytest

from fedhealth.errors import ConfigError, DataError
from fedhealth.ingest.sources.omop import OmopTable
from tests.omop import CRP, PNEUMONIA, RARE, SMOKER, VIRAL_PNEUMONIA, fill_database

PATIENTS = [f"KH-{1000 + number}" for number in range(200)]
VARIABLES = {
    "crp": {"domain": "measurement", "concepts": [CRP], "take": "last"},
    "severe": {"domain": "condition", "concepts": [PNEUMONIA], "descendants": True, "take": "any"},
}


@pytest.fixture(scope="module", name="url", params=["sqlite", "duckdb"])
def url_(request, tmp_path_factory):
    url = f"{request.param}:///{tmp_path_factory.mktemp('cdm')}/cdm.db"
    fill_database(url, PATIENTS)
    return url


@pytest.fixture(scope="module", name="small")
def small_(tmp_path_factory):
    url = f"sqlite:///{tmp_path_factory.mktemp('cdm')}/cdm.db"
    fill_database(url, PATIENTS[:20])
    return url


def read(url, **variables):
    return OmopTable(url, variables).read_table()


def test_a_row_for_each_person_with_the_value_and_unit_that_was_asked_for(url):
    table = OmopTable(url, VARIABLES).read_table()
    assert table.columns["patient"] == PATIENTS
    assert table.columns["severe"] == ["0", "1"] * 100
    assert table.columns["sex"][:3] == ["M", "M", "F"]
    assert table.columns["birth_year"][0] == "1941"
    crp = [cell.split() for cell in table.columns["crp"]]
    assert [unit for _, unit in crp[:5]] == ["mg/l"] * 4 + ["mg/dl"]
    milligrams = [float(value) * (10 if unit == "mg/dl" else 1) for value, unit in crp]
    assert all(20 < value < 22 for value in milligrams[::2])
    assert all(80 < value < 82 for value in milligrams[1::2])
    assert table.notes == ("crp: 200 only a bound (< or >), not used",)


def test_concept_sets_with_and_without_descendants(url):
    severe = VARIABLES["severe"]
    with pytest.raises(DataError, match="fewer than 10 people"):
        read(url, severe=severe | {"descendants": False})
    with pytest.raises(DataError, match="fewer than 10 people"):
        read(url, severe=severe | {"without": [VIRAL_PNEUMONIA]})


def test_a_value_of_few_people_stops_and_how_few_is_not_said(url):
    with pytest.raises(DataError, match="rare: found for fewer than 10 people") as found:
        read(url, rare={"domain": "condition", "concepts": [RARE], "take": "any"})
    assert " 3 " not in str(found.value)
    lowered = OmopTable(url, {"rare": {"domain": "condition", "concepts": [RARE], "take": "any"}}, min_persons=3)
    assert lowered.read_table().columns["rare"].count("1") == 3


def test_first_lowest_highest_period_and_words(url):
    crp = VARIABLES["crp"]
    assert set(read(url, crp=crp | {"take": "first"}).columns["crp"]) == {"5.0 mg/l"}
    later = read(url, crp=crp | {"take": "first", "since": "2023-05-02", "until": "2023-05-03"})
    assert "5.0 mg/l" not in later.columns["crp"]
    assert "crp: 400 outside the period, or of unknown time, not used" in later.notes
    lowest = read(url, crp=crp | {"take": "lowest"})
    assert lowest.columns["crp"][:5] == ["5.0 mg/l"] * 4 + [""]  # the fifth has two units
    assert "crp: 40 people whose values have several units, not used" in lowest.notes
    assert set(read(url, smoker={"domain": "observation", "concepts": [SMOKER]}).columns["smoker"]) == {"Yes"}


def test_the_statement_is_shown_as_it_runs_and_the_database_is_only_read(small):
    source = OmopTable(small, VARIABLES)
    shown = source.describe_request()
    statements = [each.strip() for each in shown.split(";") if each.strip()]
    assert len(statements) == 3
    assert all(each.startswith("SELECT") for each in statements)
    assert str(CRP) in shown
    assert str(PNEUMONIA) in shown
    path = small.removeprefix("sqlite:///")
    before = Path(path).read_bytes()
    with sqlite3.connect(path) as connection:
        rows = [connection.execute(each).fetchall() for each in statements]
    assert [len(each) for each in rows] == [20, 60, 10]
    source.read_table()
    assert Path(path).read_bytes() == before


def test_a_connection_cannot_write(url):
    from sqlalchemy import text

    from fedhealth.ingest.sources.database import DatabaseAccess, open_database

    with pytest.raises(DataError, match="cannot be read") as found, open_database(DatabaseAccess(url)) as connection:
        connection.execute(text("DELETE FROM person WHERE person_source_value = 'KH-1000'"))
    assert "KH-1000" not in str(found.value)


def test_people_without_identifier_are_counted_and_many_of_them_stop(tmp_path):
    url = f"sqlite:///{tmp_path}/cdm.db"
    fill_database(url, [*PATIENTS[:99], None])
    table = read(url)
    assert len(table.columns["patient"]) == 99
    assert table.notes == ("1 of 100 people have no person_source_value and are left out",)
    with pytest.raises(DataError, match="1 of 100 people have no person_source_value"):
        OmopTable(url, max_refused=0.0).read_table()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"url": "postgresql://me:word@db.example/cdm"}, "contains a password"),
        ({"url": "mysql://db.example/cdm"}, "not supported"),
        ({"url": "sqlite:///x.db?mode=rw"}, "has options"),
        ({"url": "sqlite://"}, "names no file"),
        ({"url": "nothing"}, "cannot be read"),
        ({"schema": "cdm; DROP TABLE person"}, "not the name of a schema"),
        ({"min_persons": 0}, "must be positive"),
        ({"access": {"password": "word"}}, "there is no such key"),
        ({"variables": {"x": {"domain": "note", "concepts": [1]}}}, "x.domain: must be one of"),
        ({"variables": {"x": {"domain": "measurement", "concepts": []}}}, "concepts: is empty"),
        ({"variables": {"x": {"domain": "measurement", "concepts": ["1); DROP"]}}}, "is not a whole number"),
        ({"variables": {"x": {"domain": "condition", "concepts": [1]}}}, "write take: any"),
        ({"variables": {"x": {"domain": "measurement", "concepts": [1], "since": "1.5.2023"}}}, "is not a day"),
        ({"variables": {"sex": {"domain": "measurement", "concepts": [1]}}}, "is a column already"),
    ],
)
def test_faults_of_the_settings_are_said_before_anything_is_read(settings, said):
    with pytest.raises(ConfigError, match=said) as found:
        OmopTable(**{"url": "sqlite:////srv/cdm.db", **settings})
    assert "word@" not in str(found.value)


def test_a_missing_database_or_schema_is_said(small, tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        read(f"sqlite:///{tmp_path}/none.db")
    with pytest.raises(DataError, match="cannot be read"):
        OmopTable(small, schema="other").read_table()
