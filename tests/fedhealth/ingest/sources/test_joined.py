"""Images by DICOMweb, reports and diagnoses by FHIR, laboratory values from OMOP: one file, one cohort."""

import json
import sys

import numpy as np
import pytest

from fedhealth.cli.main import main
from tests.clinical_systems import ABSENT, OVERRIDES, ClinicalSystems

pytestmark = [
    pytest.mark.services,
    pytest.mark.skipif(ABSENT, reason="no Orthanc with DICOMweb, or no @medplum/fhir-router, on this machine"),
]


@pytest.fixture(scope="module", name="systems")
def systems_(tmp_path_factory):
    with ClinicalSystems(tmp_path_factory.mktemp("clinic") / "northfield", "northfield", 40, "duckdb") as systems:
        yield systems


def typed(monkeypatch, capfd, *arguments):
    monkeypatch.setattr(sys, "argv", ["fedhealth", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        main()
    out, err = capfd.readouterr()
    return stopped.value.code or 0, out, err


def test_one_file_joins_three_systems(systems, monkeypatch, capfd):
    systems.write_settings()
    arguments = ("site", "ingest", systems.file, *OVERRIDES)
    code, shown, err = typed(monkeypatch, capfd, *arguments, "--show-requests")
    assert code == 0, err
    assert not systems.cohort.exists()
    code, said, told = typed(monkeypatch, capfd, *arguments, "--out", systems.cohort)
    assert code == 0, told
    for part in ("GET http://127.0.0.1", "/Condition?code=", "FROM measurement"):
        assert part in shown
        assert part in told
    assert "40 patients" in said
    report = json.loads((systems.cohort / "report.json").read_text())
    assert report["missing"] == {"image": 0, "text": 0, "label": 0} | {
        name: 0 if name in ("sex", "crp") else 40 for name in ("age", "sex", "crp", "ldh", "lymphocytes", "spo2")
    }
    assert [table["matched"] for table in report["tables"]] == [40, 40, 40]
    manifest = (systems.cohort / "manifest.csv").read_text()
    for name in ("Müller", "Schmidt", "Okafor", "Larsen", "KH-10"):
        assert name not in manifest
    check_values(manifest)


def check_values(manifest):
    """Check that each row's values are those of one person: the image is not visible here, the rest must agree."""
    import csv

    rows = [*csv.DictReader(manifest.splitlines())]
    ill = np.array([row["label"] in ("1", "severe") for row in rows])
    crp = np.array([float(row["crp"]) for row in rows])
    assert ill.sum() == 20
    np.testing.assert_array_equal(ill, crp > 50)  # also where the database says mg/dl
    assert ((crp > 20) & (crp < 82)).all()


def test_excluded_patients_are_in_no_part(systems, monkeypatch, capfd):
    (systems.folder / "opt-out.csv").write_text("KH-1003\n")
    systems.write_settings(f"exclude: {systems.folder}/opt-out.csv\n")
    code, said, told = typed(monkeypatch, capfd, "site", "ingest", systems.file, *OVERRIDES, "--out", systems.cohort)
    assert code == 0, told
    assert "1 file(s) and 3 table row(s) of excluded patients are left out" in said
    assert len((systems.cohort / "manifest.csv").read_text().splitlines()) == 40


def test_a_server_that_is_gone_leaves_no_complete_cohort(systems, monkeypatch, capfd):
    systems.write_settings()
    systems.file.write_text(systems.file.read_text().replace(systems.records.url, "http://127.0.0.1:9/fhir"))
    code, _, told = typed(monkeypatch, capfd, "site", "ingest", systems.file, *OVERRIDES, "--out", systems.cohort)
    assert code == 3
    assert "http://127.0.0.1:9 cannot be reached" in told
    assert not (systems.cohort / "cohort.json").exists()
