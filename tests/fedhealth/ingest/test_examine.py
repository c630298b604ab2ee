"""Frames, slices, series, spacing and depth: what is kept of an image."""

import numpy as np
import pytest

from fedhealth.data.image.errors import ImageError
from fedhealth.data.image.load import guard_parsers, load_image
from fedhealth.ingest.examine import DicomSeries, ExamineOptions, examine_unit
from fedhealth.ingest.header import extract_fields
from fedhealth.ingest.settings import ImageSettings, SelectionRule
from fedhealth.ingest.source import Folder, SourceFile
from tests.fedhealth.data.image.test_dicom import RAMP, make

MIDDLE = SelectionRule()


def write(folder, name, **elements):
    """Write a DICOM file; all have one window, so that grey levels compare."""
    elements = {"WindowCenter": 2048, "WindowWidth": 4096, "PatientID": "7", "Modality": "CT"} | elements
    dataset = make(elements.pop("pixels", RAMP * 60), **elements)
    dataset.save_as(folder / name, enforce_file_format=True)
    return SourceFile(name, "")


def work(folder, rule=MIDDLE, size=8, channels=1, **image):
    return ExamineOptions(Folder(str(folder)), (rule,), ImageSettings(**image), size, channels)


def pixels(found, work):
    assert not found.rejected, found.rejected
    kind = np.uint8 if work.image.bits == 8 else np.uint16
    shape = (work.channels, work.size, work.size)
    return [np.frombuffer(picture.pixels, kind).reshape(shape) for picture in found.pictures]


def examined(job, item):
    return pixels(examine_unit(job, item), job)


def test_eight_bits_are_what_reading_the_file_gives(tmp_path):
    item = write(tmp_path, "a")
    for channels in (1, 3):
        (picture,) = examined(work(tmp_path, size=6, channels=channels), item)
        np.testing.assert_array_equal(picture, load_image(tmp_path / "a", 6, channels))


def test_sixteen_bits_are_finer(tmp_path):
    item = write(tmp_path, "a")
    (coarse,), (fine,) = examined(work(tmp_path), item), examined(work(tmp_path, bits=16), item)
    assert np.abs(fine / 65535 - coarse / 255).max() < 1 / 255
    assert len(np.unique(fine)) == 64
    np.testing.assert_allclose(fine[0] / 65535, (RAMP * 60 + 0.0) / 4095, atol=1e-4)


@pytest.mark.parametrize(("rule", "kept"), [("middle", [2]), ("all", [0, 1, 2, 3]), ("spread", [1, 3])])
def test_frames_are_chosen(tmp_path, rule, kept):
    frames = np.stack([RAMP + 1000 * number for number in range(4)])
    item = write(tmp_path, "a", pixels=frames.astype(np.uint16).tobytes(), NumberOfFrames=4)
    found = examined(work(tmp_path, SelectionRule(take=rule, count=2), bits=16), item)
    assert [round(picture.min() / 65535 * 4.095) for picture in found] == kept


def test_a_projection_is_the_brightest_of_all_frames(tmp_path):
    frames = np.stack([np.where(number == RAMP % 4, RAMP * 60, 0) for number in range(4)]).astype(np.uint16)
    item = write(tmp_path, "a", pixels=frames.tobytes(), NumberOfFrames=4)
    (found,) = examined(work(tmp_path, SelectionRule(take="mip")), item)
    (plain,) = examined(work(tmp_path), write(tmp_path, "b"))
    np.testing.assert_array_equal(found, plain)


def slices(folder, count=5, **elements):
    """Write a series whose files' names are in another order than its slices."""
    items = []
    for place in range(count):
        position = {"ImagePositionPatient": [0, 0, 3 * place], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}
        bright = np.where(RAMP % count == place, RAMP * 60, 0).astype(np.uint16)
        items.append(write(folder, f"{(place * 3) % count}", pixels=bright, **position, **elements))
    return items


def test_a_series_waits_for_its_other_files(tmp_path):
    found = examine_unit(work(tmp_path, SelectionRule(stack="series")), slices(tmp_path)[0])
    assert (found.pictures, found.rejected, found.left_out, found.rule) == ((), "", "", 0)
    assert found.fields.place == 0.0


def test_the_projection_of_a_series(tmp_path):
    items = slices(tmp_path)
    job = work(tmp_path, SelectionRule(stack="series", take="mip"))
    (found,) = examined(job, DicomSeries("s", 0, tuple(items)))
    np.testing.assert_array_equal(found, examined(work(tmp_path), write(tmp_path, "plain"))[0])


def test_slices_of_several_sizes_cannot_be_projected(tmp_path):
    items = [*slices(tmp_path, 2), write(tmp_path, "wide", pixels=np.zeros((4, 16), np.uint16))]
    found = examine_unit(work(tmp_path, SelectionRule(stack="series", take="mip")), DicomSeries("s", 0, tuple(items)))
    assert "cannot be projected" in found.rejected


def test_spacing_is_the_size_of_a_kept_pixel(tmp_path):
    cross = np.zeros((8, 8), np.uint16)
    cross[3:5, 3:5] = 4000  # 2 x 2 pixels: 4 mm down, 2 mm across
    item = write(tmp_path, "a", pixels=cross, PixelSpacing=[2, 1])
    (found,) = examined(work(tmp_path, size=16, spacing=0.5), item)
    bright = found[0] > 127
    assert (bright.any(axis=1).sum(), bright.any(axis=0).sum()) == (8, 4)
    (small,) = examined(work(tmp_path, size=16, spacing=1.0), item)
    assert ((small[0] > 127).any(axis=1).sum(), (small[0] > 127).any(axis=0).sum()) == (4, 2)
    assert "no pixel spacing" in examine_unit(work(tmp_path, spacing=1.0), write(tmp_path, "b")).rejected


def test_what_is_no_image_is_left_out_and_not_broken(tmp_path):
    report = write(tmp_path, "a", pixels=None, SOPClassUID="1.2.840.10008.5.1.4.1.1.88.11")
    assert examine_unit(work(tmp_path), report).left_out == "no image but Basic Text SR"
    image = write(tmp_path, "b", pixels=None)
    assert examine_unit(work(tmp_path), image).rejected == "no pixel data"
    assert (
        examine_unit(work(tmp_path, SelectionRule(modality=("MR",))), write(tmp_path, "c")).left_out
        == "no rule of select matches"
    )


def test_no_more_of_a_header_is_kept_than_is_listed(tmp_path):
    secret = "Okafor"
    with guard_parsers():
        dataset = make(BodyPartExamined=secret + "^Ada", ViewPosition="ap", PatientID=secret, AccessionNumber=secret)
        facts = extract_fields(dataset)
    assert secret.lower() not in repr(facts).lower()
    assert (facts.body_part, facts.view) == ("", "AP")
    assert facts.patient != facts.accession


def test_an_archive_is_told_from_a_broken_file(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"PK\3\4" + bytes(200))
    found = examine_unit(work(tmp_path), SourceFile("a.zip", ""))
    assert (found.rejected, found.left_out) == ("", "no image but an archive")


class Away(Folder):
    """A share that is not there."""

    def open(self, item):
        raise ImageError("Permission denied", "Check it.")


def test_what_may_lie_outside_the_file_is_tried_again(tmp_path):
    item = write(tmp_path, "a")
    assert examine_unit(work(tmp_path), item).is_final
    away = ExamineOptions(Away(str(tmp_path)), (MIDDLE,), ImageSettings(), 8, 1)
    found = examine_unit(away, item)
    assert (found.rejected, found.is_final) == ("Permission denied", False)
    (tmp_path / "b").write_bytes(b"no image")
    assert examine_unit(work(tmp_path), SourceFile("b", "")).is_final


def test_numbers_of_a_header_as_files_have_them(tmp_path):
    with guard_parsers():
        facts = extract_fields(make(PixelSpacing=["0.5", "0.25"], InstanceNumber="7"))
        assert (facts.spacing, facts.place) == ((0.5, 0.25), 7.0)
        assert extract_fields(make(ImagerPixelSpacing=["0.5", "0"])).spacing is None
    item = write(
        tmp_path,
        "a",
        PixelSpacing=["0.5", "0.25"],
        ImagePositionPatient=[0, 0, -3],
        ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
    )
    facts = examine_unit(work(tmp_path), item).fields
    assert (facts.spacing, facts.place) == ((0.5, 0.25), -3.0)
