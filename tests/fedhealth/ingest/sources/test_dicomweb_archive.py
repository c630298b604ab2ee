"""Images from a real archive, with TLS, a client's certificate and a password: the cohort is that of the same files."""

import numpy as np
import pytest

from fedhealth.errors import DataError
from fedhealth.ingest.records import OPTED_OUT
from fedhealth.ingest.sources.dicomweb import DicomWeb
from tests.fedhealth.ingest.hospital import Hospital, write_image
from tests.orthanc import ABSENT, Orthanc

pytestmark = [pytest.mark.services, pytest.mark.skipif(ABSENT, reason="no Orthanc with DICOMweb on this machine")]


@pytest.fixture(scope="module", name="hospital")
def hospital_(tmp_path_factory):
    return Hospital(tmp_path_factory.mktemp("charite"), patients=20)


@pytest.fixture(scope="module", name="archive")
def archive_(hospital, tmp_path_factory):
    with Orthanc(tmp_path_factory.mktemp("pacs") / "archive") as archive:
        for path in sorted(hospital.images.rglob("*.dcm")):
            archive.upload(path)
        yield archive


def connect(hospital, archive, further="", **access):
    """Let the hospital's settings name the archive."""
    hospital.write()
    known = ", ".join(f"{name}: {value}" for name, value in (archive.access | access).items())
    source = (
        f"source: {{_target_: fedhealth.ingest.sources.dicomweb.DicomWeb, url: {archive.dicomweb}, page: 7, "
        f"access: {{{known}}}{further}}}\n"
    )
    lines = hospital.file.read_text().splitlines(keepends=True)
    hospital.file.write_text("".join(source if line.startswith("source:") else line for line in lines))


def test_the_cohort_is_that_of_the_same_files(hospital, archive, tmp_path):
    files = hospital.ingest(tmp_path / "files")
    connect(hospital, archive)
    told = []
    fetched = hospital.ingest(tmp_path / "fetched", progress=lambda *each: told.append(each))
    assert fetched.rejected == []

    def describe(result):
        digests = {picture.slot: picture.digest for record in result.records for picture in record.pictures}
        found = result.dataset
        rows = zip(found.patient.tolist(), found.image_index.tolist(), found.labels[:, 0].tolist(), strict=True)
        return sorted((patient, digests[slot], str(label)) for patient, slot, label in rows)

    assert describe(fetched) == describe(files)
    assert ("Reading files", 20, 20) in told
    np.testing.assert_array_equal(np.sort(fetched.dataset.labels, axis=0), np.sort(files.dataset.labels, axis=0))


def test_only_what_is_new_is_fetched(hospital, archive, tmp_path):
    connect(hospital, archive)
    hospital.ingest(tmp_path / "cohort")
    path = tmp_path / "new.dcm"
    write_image(path, "KH-1003", number=9, seed=77)
    added = archive.upload(path)
    told = []
    result = hospital.ingest(tmp_path / "cohort", progress=lambda *each: told.append(each))
    archive.session.delete(f"{archive.inner}/instances/{added}", timeout=30)
    assert [each for each in told if each[0] == "Reading files"] == [
        ("Reading files", 20, 21),
        ("Reading files", 21, 21),
    ]
    assert len(result.dataset.image_index) == 21


def test_the_query_chooses_studies(hospital, archive):
    source = DicomWeb(archive.dicomweb, {"PatientID": "KH-1004"}, access=archive.access)
    assert len([*source.items()]) == 1
    assert [*DicomWeb(archive.dicomweb, modalities=("CT",), access=archive.access).items()] == []
    assert len([*DicomWeb(archive.dicomweb, modalities=("DX", "CT"), access=archive.access, page=3).items()]) == 20


def test_excluded_patients_are_not_fetched(hospital, archive, tmp_path):
    (tmp_path / "opt-out.csv").write_text("kh-1004\n")
    connect(hospital, archive)
    with hospital.file.open("a") as file:
        file.write(f"exclude: {tmp_path}/opt-out.csv\n")
    before = archive.session.get(f"{archive.inner}/changes?last", timeout=30).json()
    told = []
    result = hospital.ingest(tmp_path / "cohort", progress=lambda *each: told.append(each))
    assert told[0] == ("Reading files", 1, 20)
    assert sum(record.left_out == OPTED_OUT for record in result.records) == 1
    assert before == archive.session.get(f"{archive.inner}/changes?last", timeout=30).json()  # read only


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ca": ""}, "SSLError"),
        ({"certificate": "", "key": ""}, "cannot be reached"),
        ({"password_file": "WRONG"}, "status 401"),
    ],
)
def test_a_fault_of_the_access_is_said(archive, tmp_path, change, said):
    (tmp_path / "wrong").write_text("geheim")
    change = {name: str(tmp_path / "wrong") if value == "WRONG" else value for name, value in change.items()}
    source = DicomWeb(archive.dicomweb, access=archive.access | change | {"attempts": 1})
    with pytest.raises(DataError, match=said) as found:
        next(source.items())
    assert "secret" not in str(found.value)
    assert "geheim" not in str(found.value)
