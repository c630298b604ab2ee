"""People, values and reports from a FHIR server that is not ours: the same as from the files of an export."""

import pytest

from fedhealth.ingest.sources.fhir import FhirPatients, FhirReports
from tests.fhir import ICD, LOINC, make_hospital, write_export
from tests.fhir_server import ABSENT, FhirServer

pytestmark = [pytest.mark.services, pytest.mark.skipif(ABSENT, reason="no @medplum/fhir-router in build/fhir-server")]

RESOURCES = make_hospital([f"KH-{1000 + number}" for number in range(40)])
VARIABLES = {
    "crp": {"resource": "Observation", "codes": [f"{LOINC}|1988-5"]},
    "severe": {"resource": "Condition", "codes": [f"{ICD}|J18.9"], "take": "any"},
}


@pytest.fixture(scope="module", name="server")
def server_():
    with FhirServer() as server:
        server.add(RESOURCES)
        yield server


def test_people_and_reports_are_those_of_the_export(server, tmp_path):
    folder = str(write_export(tmp_path / "export", RESOURCES))
    for kind, further in ((FhirPatients, {"variables": VARIABLES}), (FhirReports, {})):
        found = kind(server.url, page=7, **further).read_table()
        expected = kind(folder=folder, **further).read_table()
        rows = [sorted(zip(*table.columns.values(), strict=True)) for table in (found, expected)]
        assert rows[0] == rows[1]
        assert len(rows[0]) == 40
        assert found.notes == ()


def test_the_search_of_patients_is_the_servers(server):
    table = FhirPatients(server.url, patients={"gender": "female"}).read_table()
    assert set(table.columns["sex"]) == {"F"}
    assert len(table.columns["patient"]) == 14
