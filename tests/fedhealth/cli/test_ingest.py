"""`fedhealth site ingest`, as hospital IT types it; then the cohort is trained on."""

import json
import sys

import pytest

from benchmarks.dicom_export import read_rows, write_dicom_files, write_tables
from fedhealth.cli.main import main
from tests.fedhealth.ingest.hospital import OVERRIDES, Hospital


def typed(monkeypatch, capfd, *arguments):
    """Type a command; return exit code, output and errors."""
    monkeypatch.setattr(sys, "argv", ["fedhealth", *map(str, arguments)])
    code = 0
    try:
        main()
    except SystemExit as stop:
        code = stop.code or 0
    out, err = capfd.readouterr()
    return code, out, err


@pytest.fixture(name="hospital")
def hospital_(tmp_path):
    return Hospital(tmp_path / "charite", patients=80)


def test_a_cohort_with_its_reports(hospital, tmp_path, monkeypatch, capfd):
    (hospital.images / "<b>broken").write_text("x")
    out = tmp_path / "cohort"
    code, said, _ = typed(monkeypatch, capfd, "site", "ingest", hospital.file, *OVERRIDES, "--out", out)
    assert code == 0
    assert "80 patients" in said
    assert "rejected 1: not a DICOM file" in said
    report = json.loads((out / "report.json").read_text())
    assert report["files"]["rejected"] == {"not a DICOM file": {"count": 1, "examples": ["<b>broken"]}}
    assert sum(report["modalities"]["image DX"].values()) == 80
    assert sum(report["labels"]["label"]["unlabelled"].values()) == 12
    assert [(table["encoding"], table["rows"]) for table in report["tables"]] == [("cp1252", 53), ("utf-8", 80)]
    (told,) = [each for each in report["telling"] if each["by"] == "report"]
    assert told["auroc"] == 1.0
    assert {"besser", "schlechter"} <= set(told["words"])
    assert any("alone predict label=severe" in each["text"] for each in report["findings"])
    page = (out / "report.html").read_text()
    assert page.count("data:image/png") == 12
    assert "&lt;b&gt;broken" in page
    assert "<script" not in page


def test_what_is_wrong_is_said_without_a_traceback(hospital, tmp_path, monkeypatch, capfd):
    for number in range(9):
        (hospital.images / f"broken-{number}").write_text("x")
    code, _, err = typed(monkeypatch, capfd, "site", "ingest", hospital.file, *OVERRIDES, "--out", tmp_path / "cohort")
    assert code == 3
    assert "9 of 89 images were rejected" in err
    assert "Traceback" not in err
    code, _, err = typed(monkeypatch, capfd, "site", "ingest", tmp_path / "nothing.yaml")
    assert (code, "nothing.yaml" in err) == (2, True)


def test_the_json_is_the_report(hospital, tmp_path, monkeypatch, capfd):
    arguments = ("--out", tmp_path / "cohort", "--workers", 1, "--json")
    code, said, _ = typed(monkeypatch, capfd, "site", "ingest", hospital.file, *OVERRIDES, *arguments)
    assert code == 0
    assert json.loads(said) == json.loads((tmp_path / "cohort" / "report.json").read_text())


def test_the_x_ray_set_from_dicom_files_to_a_trained_model(tmp_path, shared_data, tiny_overrides, monkeypatch, capfd):
    """Two hospitals with files and tables of their own, one of values, one of reports; one federation."""
    xrays = shared_data / "fed_cxr"
    for site in ("hannover", "eurorad"):
        rows, folder, out = read_rows(xrays, site), tmp_path / "export" / site, tmp_path / "cohorts" / site
        write_dicom_files(xrays, folder, rows)
        write_tables(folder, rows)
        names = ("severe", "split", *(name for name in rows[0] if name.startswith("lab_")))
        columns = ", ".join(f"{name}: {name}" for name in names)
        reports = f"{{path: {folder}/reports.csv, keys: {{patient: PatientNr}}, columns: {{text: Befund}}}}"
        labels = f"{{path: {folder}/labels.csv, keys: {{patient: pid}}, columns: {{{columns}}}}}"
        (folder / "ingest.yaml").write_text(
            f"""site: {site}
data: cxr
source: {{_target_: fedhealth.ingest.source.Folder, root: {folder}/images}}
tables: [{labels}{", " + reports if site == "eurorad" else ""}]
"""
        )
        arguments = ("data.image.size=32", "--out", out)
        code, said, err = typed(monkeypatch, capfd, "site", "ingest", folder / "ingest.yaml", *arguments)
        assert code == 0, err
        assert f"{len(rows)} image" in said
    run = tmp_path / "run"
    arguments = [each for each in tiny_overrides(tmp_path / "cohorts") if not each.startswith(("~", "data."))]
    data = ["data=cxr", "data/source=ingested", f"data.root='{tmp_path}/cohorts'", "data.sites=[hannover,eurorad]"]
    data += ["data.manifest='{site}/manifest.csv'", "data.image.size=32", f"hydra.run.dir='{run}'"]
    code, _, err = typed(monkeypatch, capfd, "run", *arguments, *data)
    assert code == 0, err
    assert json.loads((run / "run.json").read_text())["state"] == "completed"


def test_a_purge_is_written_down(hospital, tmp_path, monkeypatch, capfd):
    out = tmp_path / "cohort"
    monkeypatch.setenv("FEDHEALTH_CACHE", str(tmp_path / "cache"))
    assert typed(monkeypatch, capfd, "site", "ingest", hospital.file, *OVERRIDES, "--out", out)[0] == 0
    code, _, err = typed(monkeypatch, capfd, "site", "data", "purge", hospital.file, *OVERRIDES, "--out", out)
    assert (code, "exclude: FILE" in err) == (2, True)
    (hospital.folder / "opt-out.csv").write_text("KH-1003\nKH-1004\n")
    hospital.write(f"exclude: {hospital.folder}/opt-out.csv\n")
    code, said, err = typed(monkeypatch, capfd, "site", "data", "purge", hospital.file, *OVERRIDES, "--out", out)
    assert code == 0, err
    assert "2 file(s) and 3 table row(s) are left out, 1 cache(s) deleted" in said
    proof = json.loads((out / "purge.json").read_text())
    assert (proof["files"], proof["rows"], len(proof["caches"])) == (2, 3, 1)
    assert proof["before"] != proof["after"]
    assert json.loads((out / "report.json").read_text())["cohort"]["patients"] == 78
