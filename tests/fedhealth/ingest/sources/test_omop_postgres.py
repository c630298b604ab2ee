"""Laboratory values and diagnoses from PostgreSQL: the same as from SQLite, read only, with a time limit."""

import pytest
from sqlalchemy import create_engine, text

from fedhealth.errors import DataError
from fedhealth.ingest.sources.database import DatabaseAccess, iterate_rows, open_database
from fedhealth.ingest.sources.omop import OmopTable
from tests.omop import CRP, PNEUMONIA, fill_database
from tests.postgres import ABSENT, Postgres

pytestmark = [pytest.mark.services, pytest.mark.skipif(ABSENT, reason="no PostgreSQL on this machine")]

PATIENTS = [f"KH-{1000 + number}" for number in range(200)]
VARIABLES = {
    "crp": {"domain": "measurement", "concepts": [CRP], "since": "2023-01-01"},
    "severe": {"domain": "condition", "concepts": [PNEUMONIA], "descendants": True, "take": "any"},
}


@pytest.fixture(scope="module", name="server")
def server_():
    with Postgres() as server:
        engine = create_engine(server.url_for_writing)
        with engine.begin() as connection:
            connection.execute(text("CREATE SCHEMA cdm"))
        engine.dispose()
        fill_database(server.url_for_writing, PATIENTS, "cdm")
        yield server


def test_the_rows_are_those_of_sqlite(server, tmp_path):
    url = f"sqlite:///{tmp_path}/cdm.db"
    fill_database(url, PATIENTS)
    found = OmopTable(server.url, VARIABLES, schema="cdm", access={"password_file": server.password}).read_table()
    expected = OmopTable(url, VARIABLES).read_table()
    rows = [sorted(zip(*table.columns.values(), strict=True)) for table in (found, expected)]
    assert rows[0] == rows[1]
    assert found.notes == expected.notes


def test_a_wrong_password_is_said_without_it(server, tmp_path):
    (tmp_path / "password").write_text("geheim")
    with pytest.raises(DataError, match="cannot be read") as found:
        OmopTable(server.url, access={"password_file": str(tmp_path / "password")}).read_table()
    assert "geheim" not in str(found.value)


@pytest.mark.parametrize(
    ("statement", "seconds"),
    [("CREATE TABLE x (y int)", 60), ("DELETE FROM cdm.person", 60), ("SELECT pg_sleep(9)", 0.2)],
)
def test_writing_is_refused_and_time_is_limited(server, statement, seconds):
    access = DatabaseAccess(server.url, password_file=server.password, seconds=seconds)
    with pytest.raises(DataError, match="cannot be read"), open_database(access) as connection:
        list(iterate_rows(connection, text(statement)))
