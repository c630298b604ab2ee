"""From a hospital's files to a cohort: right, whatever is broken, whenever it is interrupted, always the same."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pydicom.data
import pytest

from fedhealth.data.identifiers import hash_identifier
from fedhealth.data.image.load import load_image
from fedhealth.data.ingested_dataset import MANIFEST_FILE, read_ingest_info
from fedhealth.data.manifest import SPLITS
from fedhealth.errors import ConfigError, DataError
from fedhealth.ingest.examine import DAMAGED
from fedhealth.ingest.image_content import CONTENTS
from fedhealth.ingest.ingest_files import NO_PATIENT_ID, REJECTED_FILE
from fedhealth.ingest.pixel_layout import HEADER_BYTES
from fedhealth.ingest.store import ITEMS
from tests.fedhealth.ingest.hospital import Hospital, write_csv, write_image


@pytest.fixture(name="hospital")
def hospital_(tmp_path):
    return Hospital(tmp_path / "charite", patients=12)


@pytest.fixture(name="out")
def out_(tmp_path):
    return tmp_path / "cohort"


def reading(told):
    """A progress that notes how many files were read."""

    def note(stage, done, total):
        if stage == "Reading files":
            told.append(done)

    return note


def test_a_cohort_is_what_the_files_and_tables_say(hospital, out):
    found = hospital.ingest(out)
    cohort = found.dataset
    counts = cohort.counts()
    assert {name: counts[name] for name in ("rows", "patients", "image", "text", "unlabelled", "rejected")} == {
        "rows": 12,
        "patients": 12,
        "image": 12,
        "text": 8,
        "unlabelled": 2,
        "rejected": 0,
    }
    names = [entry.name for entry in found.records]
    assert names == sorted(names)
    for slot, name in enumerate(names):
        np.testing.assert_array_equal(cohort.images[slot], load_image(hospital.images / name, 16, 1))
    manifest = (out / MANIFEST_FILE).read_text("utf-8")
    for number in range(12):
        assert manifest.count(hash_identifier("patient", f"KH-{1000 + number}")) == 1
    severe = cohort.images[cohort.image_index[cohort.labels[:, 0] == 1]].mean()
    assert severe > cohort.images[cohort.image_index[cohort.labels[:, 0] == 0]].mean() + 10
    assert {text for text in cohort.texts if text} == {
        f"Befund: _, geb. _, heute {course}. Größe normal." for course in ("besser", "schlechter")
    }


def test_nothing_that_is_written_names_a_patient(hospital, out):
    for path in (hospital.images).iterdir():  # the names of files are the hospital's own
        path.rename(path.with_name(hash_identifier("folder", path.name)))
    hospital.ingest(out)
    written = b"".join(path.read_bytes() for path in out.rglob("*") if path.is_file() and path.suffix != ".npy")
    for secret in ("KH-10", "Synthetic", "Mueller", "Okafor", "12.03.1950", "1.2.840.10008.1.2"):
        assert secret.encode() not in written


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_the_same_files_give_the_same_bytes_whoever_reads_them(hospital, out, tmp_path):
    hospital.ingest(out, workers=1)
    hospital.ingest(tmp_path / "again", workers=3)
    assert contents(out) == contents(tmp_path / "again")


def test_what_has_not_changed_is_not_read_again(hospital, out):
    hospital.ingest(out)
    before, told = contents(out), []
    hospital.ingest(out, progress=reading(told))
    assert told == [12]
    assert contents(out) == before


def test_a_changed_a_new_and_a_missing_file_are_noticed(hospital, out, tmp_path):
    hospital.ingest(out)
    former = read_ingest_info(out).images
    write_image(hospital.images / "KH-1003" / "1.dcm", "KH-1003", label=1, seed=99)
    write_image(hospital.images / "KH-1004" / "2.dcm", "KH-1004", number=2, seed=98)
    (hospital.images / "KH-1005" / "1.dcm").unlink()
    told = []
    changed = hospital.ingest(out, progress=reading(told))
    assert told == [10, 11, 12]
    assert not (out / former).exists()
    hospital.ingest(tmp_path / "fresh")
    assert contents(out) == contents(tmp_path / "fresh")
    assert changed.dataset.counts()["image"] == 12


def test_another_rule_reads_everything_again(hospital, out):
    hospital.ingest(out)
    hospital.write("image: {bits: 16}\n")
    told = []
    assert hospital.ingest(out, progress=reading(told)).dataset.images.dtype == np.uint16
    assert told[0] == 0


def interrupted(hospital, out):
    """Stop an ingest after seven files; return the file of pixels that it leaves."""

    def interrupt(stage, done, total):
        if done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hospital.ingest(out, workers=1, progress=interrupt)
    (pixels,) = (out / "work").glob("*.bin")
    return pixels


@pytest.mark.parametrize("harm", ["none", "half a line", "half an image", "no pixels", "other pixels", "a new file"])
def test_an_interrupted_ingest_goes_on(hospital, out, tmp_path, harm):
    pixels = interrupted(hospital, out)
    journal = out / "work" / ITEMS
    if harm == "half a line":
        journal.write_bytes(journal.read_bytes()[:-20])
    if harm == "half an image":
        pixels.write_bytes(pixels.read_bytes() + bytes(100))
    if harm == "no pixels":  # a power cut may leave the journal without what it speaks of
        pixels.write_bytes(pixels.read_bytes()[: HEADER_BYTES + 3 * 256])
    if harm == "other pixels":  # or a hole in the file
        content = pixels.read_bytes()
        pixels.write_bytes(content[: HEADER_BYTES + 256] + bytes(256) + content[HEADER_BYTES + 512 :])
    if harm == "a new file":
        write_image(hospital.images / "KH-0999" / "1.dcm", "KH-0999", seed=97)
    told = []
    hospital.ingest(out, progress=reading(told))
    assert told[0] == {"half a line": 6, "no pixels": 3, "other pixels": 6}.get(harm, 7)
    hospital.ingest(tmp_path / "fresh", workers=3)
    assert contents(out) == contents(tmp_path / "fresh")
    assert not (out / "work").exists()


def test_a_full_disk_stops_the_ingest_and_is_no_fault_of_a_file(hospital, out, tmp_path, monkeypatch):
    pixels = interrupted(hospital, out)
    pixels.unlink()
    pixels.symlink_to("/dev/full")
    monkeypatch.setattr("os.fsync", lambda descriptor: None)  # which the device does not know
    with pytest.raises(OSError, match="No space left") as stopped:
        hospital.ingest(out)
    assert stopped.value.filename == str(pixels)
    pixels.unlink()
    hospital.ingest(out)
    hospital.ingest(tmp_path / "fresh")
    assert contents(out) == contents(tmp_path / "fresh")


def test_files_without_images_leave_no_gap(hospital, out, tmp_path):
    hospital.ingest(tmp_path / "without")
    for name in ("KH-0000", "KH-1003/0", "KH-1007/2", "KH-9999"):
        (hospital.images / name).write_text("no image")
    outcome = hospital.ingest(out, "data.max_rejected=0.5")
    images, bare = (np.load(folder / read_ingest_info(folder).images) for folder in (out, tmp_path / "without"))
    slots = [picture.slot for entry in outcome.records for picture in entry.pictures]
    assert sorted(slots) == list(range(12))
    np.testing.assert_array_equal(images[slots], bare)


def test_a_finished_cache_with_other_pixels_is_not_built_upon(hospital, out):
    hospital.ingest(out)
    images = out / read_ingest_info(out).images
    images.write_bytes(images.read_bytes()[:-256] + bytes(256))
    write_image(hospital.images / "KH-0999" / "1.dcm", "KH-0999", seed=97)
    with pytest.raises(DataError, match="differ from those that were written"):
        hospital.ingest(out)


def test_broken_files_are_set_aside_with_their_reasons(hospital, out):
    (hospital.images / "KH-1001" / "1.dcm").write_bytes(b"")
    (hospital.images / "note").write_text("no image")
    whole = hospital.images / "KH-1000" / "1.dcm"
    (hospital.images / "half").write_bytes(whole.read_bytes()[:-40])
    found = hospital.ingest(out, "data.max_rejected=0.25")
    reasons = dict(found.rejected)
    assert reasons == {
        "KH-1001/1.dcm": "the file is empty",
        "half": "truncated pixel data",
        "note": "not a DICOM file",
    }
    assert (out / REJECTED_FILE).read_text().splitlines()[1:] == [
        f"{name},{reason}" for name, reason in sorted(reasons.items())
    ]
    assert found.dataset.counts()["image"] == 11


def test_too_many_broken_files_stop_the_ingest_and_nothing_is_lost(hospital, out):
    for number in range(3):
        (hospital.images / f"broken-{number}").write_text("x")
    with pytest.raises(DataError, match=r"3 of 15 images were rejected:\n *3 not a DICOM file"):
        hospital.ingest(out)
    with pytest.raises(DataError, match="no complete ingest"):
        read_ingest_info(out)
    told = []
    hospital.ingest(out, "data.max_rejected=0.2", progress=reading(told))
    assert told == [15]


def test_two_ingests_of_one_folder_do_not_meet(hospital, out):
    def meet(*told):
        with pytest.raises(ConfigError, match="Another ingest"):
            hospital.ingest(out)

    hospital.ingest(out, progress=meet)


def test_files_without_a_patient_are_set_aside_unless_a_table_names_one(hospital, out):
    write_image(hospital.images / "nameless", "")
    found = hospital.ingest(out, "data.max_rejected=0.1")
    assert found.rejected == [("nameless", NO_PATIENT_ID)]
    assert found.dataset.counts()["image"] == 12
    write_csv(hospital.folder / "files.csv", [("file", "who"), ("nameless", "KH-1001")])
    further = f"  - {{path: {hospital.folder}/files.csv, keys: {{file: file, patient: who}}, columns: {{}}}}\n"
    hospital.write(further)
    found = hospital.ingest(out)
    assert found.rejected == []
    assert found.dataset.counts()["image"] == 13
    assert found.dataset.counts()["patients"] == 12


def test_patients_without_images_are_rows_too(hospital, out):
    with (hospital.folder / "labels.csv").open("a") as file:
        file.write("KH-2000,1,77.0\n")
    counts = hospital.ingest(out).dataset.counts()
    assert (counts["rows"], counts["image"], counts["tabular"]) == (13, 12, 13)


def test_an_empty_folder_and_no_folder(hospital, out):
    hospital.images.rename(hospital.folder / "elsewhere")
    with pytest.raises(DataError, match="the folder does not exist"):
        hospital.ingest(out)
    hospital.images.mkdir()
    with pytest.raises(DataError, match="no file"):
        hospital.ingest(out)


def test_a_table_that_is_not_there(hospital, out):
    (hospital.folder / "labels.csv").unlink()
    with pytest.raises(DataError, match="the table does not exist"):
        hospital.ingest(out)


def every_file(shared):
    """Link every file of the corpus and of pydicom's own below one folder."""
    packaged = Path(pydicom.data.__file__).parent
    for source in (*(packaged / "test_files").rglob("*"), *(packaged / "charset_files").glob("*")):
        if source.is_file():
            yield f"pydicom/{source.relative_to(packaged)}", source
    for source in (shared / "dicom" / "files").iterdir():
        yield f"corpus/{source.name}", source


def test_every_known_file_is_read_or_set_aside(tmp_path, out, shared_data):
    hospital = Hospital(tmp_path / "charite", patients=12)
    files = dict(every_file(shared_data))
    for name, source in files.items():
        link = hospital.images / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(source)
    hospital.write(f"select: [{{take: middle, content: [{', '.join(CONTENTS)}]}}]\n")
    found = hospital.ingest(out, "data.max_rejected=1.0")
    entries = {entry.name: entry for entry in found.records}
    excluded = {name for name in files if name.endswith((".txt", "DICOMDIR"))}
    assert files.keys() - excluded <= entries.keys()
    for entry in entries.values():
        assert bool(entry.pictures) + bool(entry.left_out) + bool(entry.rejected) == 1, entry.name
    read = [name for name in files if name in entries and entries[name].pictures]
    assert sum(name.startswith("corpus/") for name in read) == 62
    assert sum(name.startswith("pydicom/") for name in read) >= 100
    reasons = {reason for _, reason in found.rejected}
    assert not any("crash" in reason or "longer" in reason or "memory" in reason for reason in reasons)
    allowed = (
        "no pixel",
        "not a DICOM",
        "the header describes no image",
        "a DICOM directory",
        "truncated",
        "pixel data (JPEG 20",
    )
    assert [each for each in reasons if not each.startswith((*allowed, NO_PATIENT_ID, DAMAGED))] == []
    assert [name for name, reason in found.rejected if reason == DAMAGED] == ["pydicom/test_files/badVR.dcm"]


def test_the_report_of_splits_adds_up(hospital, out):
    cohort = hospital.ingest(out).dataset
    assert sum(len(cohort.rows(split, labelled=False)) for split in SPLITS) == len(cohort.split)
    assert json.loads((out / "cohort.json").read_text())["images"] == read_ingest_info(out).images
    assert oct(out.stat().st_mode)[-3:] == "700"


def test_a_cohort_that_was_moved_is_found_again(hospital, out):
    before = hospital.ingest(out)
    shutil.move(out, out.with_name("moved"))
    after = hospital.ingest(out.with_name("moved"))
    assert after.dataset.rows("train").tolist() == before.dataset.rows("train").tolist()
    assert len(after.dataset.images) == len(before.dataset.images)


def test_a_cohort_below_its_source_is_refused(hospital):
    with pytest.raises(ConfigError, match="is in the source"):
        hospital.ingest(hospital.images / "cohort")


def test_an_ingest_that_fails_leaves_no_cohort(hospital, out):
    hospital.ingest(out)
    with (hospital.folder / "labels.csv").open("a") as file:
        file.write("KH-1001,perhaps,1\n")
    with pytest.raises(DataError, match=r"labels\.csv: column 'severe', line 14: 'perhaps'"):
        hospital.ingest(out)
    with pytest.raises(DataError, match="no complete ingest"):
        read_ingest_info(out)


def test_names_of_files_that_are_not_utf_8(hospital, out):
    whole = hospital.images / "KH-1000" / "1.dcm"
    named = Path(os.fsdecode(os.fsencode(hospital.images) + b"/M\xfcller.dcm"))
    whole.rename(named)
    named.with_name(os.fsdecode(b"kaputt\xfc")).write_text("x")
    found = hospital.ingest(out, "data.max_rejected=0.2")
    assert found.dataset.counts()["image"] == 12
    hospital.ingest(out, "data.max_rejected=0.2")


def test_who_withdraws_is_removed_from_cohort_and_caches(hospital, out, tmp_path, monkeypatch):
    monkeypatch.setenv("FEDHEALTH_CACHE", str(tmp_path / "cache"))
    result = hospital.ingest(out)
    (picture,) = next(record.pictures for record in result.records if record.name == "KH-1003/1.dcm")
    before = result.dataset
    (before.folder / "image-features-0.npy").write_bytes(b"features")
    pixels = before.images[picture.slot].tobytes()
    code = hash_identifier("patient", "KH-1003")
    assert code in (out / MANIFEST_FILE).read_text()
    (hospital.folder / "opt-out.csv").write_text("Patient\nkh-1003\n")
    hospital.write(f"exclude: {hospital.folder}/opt-out.csv\n")
    told = []
    after = hospital.ingest(out, progress=reading(told))
    assert told[0] == 12  # nothing is read again
    assert after.dataset.counts()["patients"] == 11
    written = [path for folder in (out, tmp_path / "cache") for path in folder.rglob("*") if path.is_file()]
    assert not before.folder.exists()
    for path in written:
        content = path.read_bytes()
        assert code.encode() not in content, path
        assert pixels not in content, path
    (hospital.folder / "opt-out.csv").write_text("Patient\nKH-9999\n")
    assert hospital.ingest(out).dataset.counts()["patients"] == 12  # who is no longer on the list is read again


def install_deidentifier(folder, monkeypatch, body):
    """Install a package whose function `clean` is the entry point `ours`."""
    package = folder / "words-3.1.dist-info"
    package.mkdir(parents=True, exist_ok=True)
    (folder / "words.py").write_text(f"def clean(report, names):\n    {body}\n")
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: words\nVersion: 3.1\n")
    (package / "entry_points.txt").write_text("[fedhealth.deidentifiers]\nours = words:clean\n")
    monkeypatch.syspath_prepend(folder)


def test_a_hospitals_own_deidentification_is_screened_named_and_cannot_print(
    hospital, out, tmp_path, monkeypatch, capfd
):
    hospital.write("text: {deidentifier: ours, deidentify: false}\n")
    body = "print(report, flush=True); return report.replace('Okafor', '').replace('Mueller', '')"
    install_deidentifier(tmp_path / "packages", monkeypatch, body)
    told = []
    with pytest.raises(ConfigError, match="'ours' leaves Quillfeather"):
        hospital.ingest(out, progress=reading(told))
    assert not told  # not one file was read
    hospital.write("text: {deidentifier: ours}\n")
    found = hospital.ingest(out)
    assert any(
        "de-identified by 'ours' of words 3.1; fedhealth's patterns follow" in each.text for each in found.findings
    )
    assert "Befund" not in "".join(capfd.readouterr())
    install_deidentifier(tmp_path / "packages", monkeypatch, "import time; time.sleep(60)")
    hospital.write("text: {deidentifier: ours}\nlimits: {seconds: 0.5}\n")
    with pytest.raises(ConfigError, match=r"'ours' takes longer than 0\.5 s on a sample report"):
        hospital.ingest(out)
