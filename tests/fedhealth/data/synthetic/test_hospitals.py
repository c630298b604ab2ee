import csv
import hashlib
from collections import Counter

import pytest
from pydicom import dcmread

from fedhealth.data.image.load import load_image
from fedhealth.data.synthetic import HOSPITALS, write_hospitals
from fedhealth.data.synthetic.hospitals import COLUMNS
from fedhealth.errors import DataError

PATIENTS = 60


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hospitals")
    assert write_hospitals(folder, patients=PATIENTS) == [hospital.name for hospital in HOSPITALS]
    return folder


def rows(root, hospital):
    with (root / hospital.name / "manifest.csv").open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        table = list(reader)
    assert tuple(reader.fieldnames) == COLUMNS
    return table


def images(row):
    return [name for name in row["image"].split(";") if name]


def digest(root):
    total = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        total.update(str(path.relative_to(root)).encode())
        total.update(path.read_bytes() if path.is_file() else b"")
    return total.hexdigest()


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(tmp_path):
    for name, seed in (("one", 3), ("two", 3), ("other", 4)):
        write_hospitals(tmp_path / name, seed=seed, patients=6)
    assert digest(tmp_path / "one") == digest(tmp_path / "two")
    assert digest(tmp_path / "one") != digest(tmp_path / "other")


@pytest.mark.parametrize("hospital", HOSPITALS, ids=lambda hospital: hospital.name)
def test_sizes_and_missingness_are_as_declared(root, hospital):
    table = rows(root, hospital)
    studies = Counter(row["patient_id"] for row in table)
    assert len(studies) == round(PATIENTS * hospital.size)
    assert set(studies.values()) <= {1, 2, 3, 4}
    assert len(set(studies.values())) > 1
    assert len({row["study_id"] for row in table}) == len(table)
    assert sum(not row["image"] for row in table) == round(hospital.images_missing * len(table))
    assert sum(len(images(row)) == 2 for row in table) == round(hospital.two_views * len(table))
    assert sum(row["label"] == "" for row in table) == round(hospital.unlabelled * len(table))
    assert all(bool(row["text"]) == bool(hospital.style) for row in table)
    labs = [row[name] for row in table for name in ("age", "sex", "crp", "ldh", "lymphocytes", "spo2")]
    assert labs.count("") / len(labs) == pytest.approx(hospital.labs_missing, abs=0.04)
    labels = [int(row["label"]) for row in table if row["label"]]
    assert sum(labels) / len(labels) == pytest.approx(hospital.prevalence, abs=0.12)


@pytest.mark.parametrize("hospital", HOSPITALS, ids=lambda hospital: hospital.name)
def test_every_image_decodes_except_the_declared_share(root, hospital):
    table = rows(root, hospital)
    broken = 0
    for name in (name for row in table for name in images(row)):
        try:
            image = load_image(root / hospital.name / name, 32, 1)
        except DataError:
            broken += 1
        else:
            assert image.max() > 200
            assert image[0, 0, 0] < 60, "air is black whatever the console writes"
    assert broken == round(hospital.images_broken * len(table))


def test_the_consoles_differ_and_the_headers_agree_with_the_manifest(root):
    seen = set()
    for hospital in HOSPITALS:
        row = next(row for row in rows(root, hospital) if row["image"])
        dataset = dcmread(root / hospital.name / images(row)[0])
        assert (dataset.PatientID, dataset.StudyID) == (row["patient_id"], row["study_id"])
        assert str(dataset.PatientName).startswith("Synthetic^")
        assert dataset.StudyInstanceUID.is_valid
        assert ("WindowCenter" in dataset) == hospital.scanner.window
        seen.add((dataset.file_meta.TransferSyntaxUID, dataset.PhotometricInterpretation, dataset.BitsStored))
    assert len(seen) == len(HOSPITALS)


def test_two_images_of_a_study_share_its_study_uid_only(root):
    hospital = next(hospital for hospital in HOSPITALS if hospital.two_views)
    row = next(row for row in rows(root, hospital) if len(images(row)) == 2)
    one, two = (dcmread(root / hospital.name / name) for name in images(row))
    assert one.StudyInstanceUID == two.StudyInstanceUID
    assert one.SOPInstanceUID != two.SOPInstanceUID


def test_no_note_states_the_label_or_the_factors(root):
    for hospital in HOSPITALS:
        texts = " ".join(row["text"] for row in rows(root, hospital)).lower()
        assert not {"positive", "negative", "label", "diagnosis", "pneumonia"} & set(texts.split())
