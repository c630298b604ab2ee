"""Small cohorts with one fault each, modelled on public reports: the true count, a stop, or a finding that says it.

A case is a YAML file: `images` are groups of synthetic patients (number n, id by a format), `tables` have a head and a
row by a format of n and of y (0 or 1 in turn), `expect` is what must come of it. All names are invented.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

from fedhealth.cli.ingest import compose_data_config
from fedhealth.data.dataset import prepare_dataset
from fedhealth.errors import FedhealthError
from fedhealth.ingest.ingest_files import ingest_files
from fedhealth.ingest.settings import load_ingest_settings

HERE = Path(__file__).parent
CASES = sorted(path for path in HERE.rglob("*.yaml"))
UNUSED = ("age", "sex", "ldh", "lymphocytes", "spo2")
OVERRIDES = ("data.image.size=8", "data.split.validation=0.2", "data.split.test=0.2")
OVERRIDES += tuple(f"~data.tabular.{name}" for name in UNUSED)


def number_rows(group):
    first = group.get("first", 1)
    return [(n, n % 2) for n in range(first, first + group.get("patients", 12))]


def write_images(folder, group, place):
    """Write one DICOM file, or `images` of them, for each patient of a group."""
    for n, y in number_rows(group):
        wanted = group.get("label")
        for each in range(group.get("images", 1) if wanted in (None, y) else 0):
            seed = n * 100 + each + 10_000 * place if group.get("pixels", "own") == "own" else 0
            write_image(folder / f"{place}-{n}-{each}", group, n, y, each, seed)


def write_image(path, group, n, y, each, seed):
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    uid = group.get("sop_class", DigitalXRayImageStorageForPresentation)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = UID(uid)
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = f"1.2.3.{abs(seed)}.{n}.{each}"
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.PatientID = group.get("id", "KH-{n}").format(n=n, y=y)
    dataset.StudyInstanceUID = f"1.2.{n}"
    dataset.SeriesInstanceUID = f"1.2.{n}.{group.get('series', 1)}"
    dataset.AccessionNumber, dataset.Modality, dataset.InstanceNumber = f"A{n}", "DX", each + 1
    dataset.Rows = dataset.Columns = 8
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PixelRepresentation = 1, "MONOCHROME2", 1
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit = 15
    pixels = np.random.default_rng(seed).integers(0, 2000, (8, 8))
    pixels = np.full((8, 8), group["value"]) if "value" in group else pixels
    dataset.PixelData = pixels.astype("<i2").tobytes()
    dataset["PixelData"].VR = "OW"
    for keyword, value in group.get("elements", {}).items():
        value = value.format(n=n, y=y, each=each) if isinstance(value, str) else value
        setattr(dataset, keyword, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)


def write_table(path, table):
    """Write a table; `rows` are further lines as they are."""
    if path.suffix == ".xlsx":
        write_workbook(path, table)
        return
    lines = [table["head"]] if "head" in table else []
    lines += [table["row"].format(n=n, y=y) for n, y in number_rows(table)] if "row" in table else []
    text = table.get("before", "") + "\n".join([*lines, *table.get("rows", [])]) + "\n"
    path.write_bytes(text.encode(table.get("encoding", "utf-8")))


def write_workbook(path, table):
    openpyxl = pytest.importorskip("openpyxl", reason="openpyxl reads Excel files; it is an extra")
    book = openpyxl.Workbook()
    for row in [*table.get("title", []), table["head"], *([n, y] for n, y in number_rows(table))]:
        book.active.append(row)
    book.save(path)


def run_case(case, folder):
    """Ingest the case; return its dataset and result, or for a case of plain files its dataset."""
    images = folder / "images"
    images.mkdir()
    for place, group in enumerate(case.get("images", [])):
        write_images(images, group, place)
    for name, content in case.get("files", {}).items():
        (images / name).write_bytes(content.encode("latin-1"))
    for name, table in case.get("tables", {}).items():
        write_table(folder / name, table)
    for name, content in case.get("texts", {}).items():
        (folder / name).write_bytes(content.encode(case.get("texts_encoding", "latin-1")))
    settings = {"site": "north", "data": "demo", **case.get("settings", {})}
    settings["source"] = {"_target_": "fedhealth.ingest.source.Folder", "root": str(images)}
    for table in settings.get("tables", []):
        table["path"] = str(folder / table["path"])
    if "exclude" in settings:
        settings["exclude"] = str(folder / settings["exclude"])
    file = folder / "ingest.yaml"
    file.write_text(yaml.safe_dump(settings, allow_unicode=True))
    loaded, overrides = load_ingest_settings(file), [*OVERRIDES, *case.get("contract", [])]
    if case.get("source") == "files":
        data = compose_data_config(loaded, folder, [*overrides, "data.manifest=manifest.csv"])
        return prepare_dataset(replace(data, site_column=None), "north"), None
    result = ingest_files(
        loaded, compose_data_config(loaded, folder / "cohort", overrides), folder / "cohort", 1, lambda *told: None
    )
    return result.dataset, result


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.relative_to(HERE).with_suffix("").as_posix())
def test_a_case_is_not_silent(path, tmp_path, monkeypatch):
    monkeypatch.setenv("FEDHEALTH_CACHE", str(tmp_path / "cache"))
    case = yaml.safe_load(path.read_text("utf-8"))
    expect = case["expect"]
    if "stop" in expect:
        with pytest.raises(FedhealthError) as stopped:
            run_case(case, tmp_path)
        for words in expect["stop"]:
            assert words in str(stopped.value)
        assert not (tmp_path / "cohort" / "cohort.json").exists()
        return
    dataset, result = run_case(case, tmp_path)
    said = [each.text for each in dataset.findings]
    for words in expect.get("findings", []):
        assert any(words in text for text in said), said
    for words in expect.get("silent", []):
        assert not any(words in text for text in said), said
    counts = dataset.counts()
    assert {name: counts[name] for name in expect.get("counts", {})} == expect.get("counts", {})
    if "texts" in expect:
        assert sorted(set(dataset.texts)) == sorted(expect["texts"])
    if "left_out" in expect:
        left_out = [record.left_out for record in result.records if record.left_out]
        assert {reason: left_out.count(reason) for reason in set(left_out)} == expect["left_out"]
    if "values" in expect:
        assert sorted({round(float(value), 3) for value in dataset.tabular[:, 0]}) == expect["values"]
    if "grey" in expect:
        assert sorted({int(value) for value in dataset.images[..., 4, 4].ravel()}) == expect["grey"]
