"""docs/ingest.md, followed as written."""

import dataclasses
import json
import re

import pytest
import yaml

from fedhealth.cli.main import main
from fedhealth.config.instantiate import instantiate
from fedhealth.ingest.settings import KEYS, TAKES, IngestSettings, IngestTable, SelectionRule
from fedhealth.ingest.sources import access, database, events, fhir, fhir_events, omop, omop_sql, smart
from fedhealth.ingest.sources.dicomweb import DicomWeb
from fedhealth.ingest.table_source import build_table_source
from tests.fedhealth.ingest.hospital import Hospital
from tests.guide import DOCS, steps

PAGE = (DOCS / "ingest.md").read_text("utf-8")


def test_the_guide_works_as_written(tmp_path, monkeypatch, capfd):
    hospital = Hospital(tmp_path / "charite", patients=60)
    monkeypatch.chdir(tmp_path)
    for step in steps("ingest.md"):
        if step.mark:
            places = step.yaml.replace("/srv/pacs/export", str(hospital.images)).replace(
                "/srv/pacs", str(hospital.folder)
            )
            (tmp_path / step.mark).write_text(places)
            continue
        monkeypatch.setattr("sys.argv", list(step.words))
        with pytest.raises(SystemExit) as stopped:
            main()
        assert not stopped.value.code, capfd.readouterr()
    report = json.loads((tmp_path / "cohort" / "report.json").read_text())
    assert report["cohort"]["patients"] == 60
    written = {path.name for path in (tmp_path / "cohort").iterdir()} - {".lock"}
    listed = {name.strip("` ") for row in table("What it writes") for name in row[0].split(",")}
    assert {name if not name.startswith("images-") else "images-….npy" for name in written} == listed - {"work/"}


def table(title):
    """Return the rows of the table below a title."""
    section = PAGE.split(f"## {title}\n")[1].split("\n## ")[0]
    return [[cell.strip() for cell in row.split("|")[1:-1]] for row in section.splitlines() if row.startswith("|")][2:]


def test_every_key_of_the_file_is_described():
    listed = {name.strip("` ") for row in table("What is in the file") for name in row[0].split(",")}
    assert listed == {field.name for field in dataclasses.fields(IngestSettings)}
    described = " ".join(cell for row in table("What is in the file") for cell in row)
    words = {field.name for kind in (IngestTable, SelectionRule) for field in dataclasses.fields(kind)} | {
        *KEYS,
        *TAKES,
    }
    assert {word for word in words if f"`{word}`" not in described} == set()


def test_the_sources_of_the_page_can_be_built():
    blocks = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)]
    images = [instantiate(block["source"]) for block in blocks if "source" in block]
    assert {type(each).__name__ for each in images} == {"Folder", "DicomWeb"}
    tables = [table for block in blocks for table in block.get("tables", ()) if "source" in table]
    built = [build_table_source(IngestTable(**table)) for table in tables]
    assert {type(each).__name__ for each in built} == {"FhirReports", "FhirPatients", "OmopTable"}
    assert all(each.describe_request() for each in built)


@pytest.mark.parametrize(
    ("title", "kinds"),
    [
        ("Images from an archive: DICOMweb", (DicomWeb, access.ServerAccess)),
        (
            "Tables from record systems: FHIR and OMOP",
            (
                *(fhir.FhirPatients, fhir.FhirReports, fhir_events.FhirVariable, smart.SmartClient),
                *(omop.OmopTable, omop_sql.OmopVariable, database.DatabaseAccess, events.EventPeriod),
            ),
        ),
    ],
)
def test_every_key_of_a_source_is_described(title, kinds):
    section = PAGE.split(f"## {title}\n")[1].split("\n## ")[0]
    words = {field.name for kind in kinds for field in dataclasses.fields(kind)}
    assert {word for word in words if not re.search(rf"\b{word}\b", section)} == set()
