from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedhealth.data.image.load import load_image
from fedhealth.data.synthetic.dicom_file import SyntheticHeader, write_dicom
from fedhealth.data.synthetic.radiograph import Scanner
from fedhealth.errors import DataError
from fedhealth.export.model import load_model
from fedhealth.export.predict import StudyInput, list_class_names, read_studies, score_studies
from fedhealth.runs.run_dir import MODEL_DIR


@pytest.fixture(scope="module")
def exported(finished):
    return load_model(finished[0].path / MODEL_DIR)


@pytest.fixture
def image(good_hospitals):
    return good_hospitals / "north" / "images" / "1.png"


def test_studies_do_not_influence_each_other(exported, image):
    studies = [
        StudyInput((image,), "worse today", {"crp": "90", "ldh": "350"}),
        StudyInput((), "better today, walks about and says so at length"),
        StudyInput((image,)),
        StudyInput((), "", {"crp": "12"}),
    ]
    together = score_studies(exported, studies)
    assert together.shape == (4, 1)
    for place, study in enumerate(studies):
        np.testing.assert_allclose(score_studies(exported, [study])[0], together[place], atol=1e-6)


def test_several_images_are_one_study(exported, image):
    other = image.with_name("2.png")
    one, two, both = score_studies(exported, [StudyInput((image,)), StudyInput((other,)), StudyInput((image, other))])[
        :, 0
    ]
    logit = np.log(np.array([one, two]) / (1 - np.array([one, two]))).mean()
    assert both == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-6)


@pytest.mark.parametrize(
    ("study", "said"),
    [
        (StudyInput(), "no input that the model uses"),
        (StudyInput(text="x", values={"hair": "red"}), "no variable 'hair'"),
        (StudyInput(text="x", values={"crp": "high"}), "not a number"),
    ],
)
def test_what_cannot_be_scored_is_said(exported, study, said):
    with pytest.raises(DataError, match=said):
        score_studies(exported, [study])


def test_an_unreadable_image_is_no_missing_one(exported, tmp_path):
    (tmp_path / "broken.dcm").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"broken\.dcm"):
        score_studies(exported, [StudyInput((tmp_path / "broken.dcm",), "text")])


def test_a_table_needs_the_columns_but_no_labels(exported, tmp_path, table_writer):
    columns = ("patient_id", "study_id", "image", "text", "crp", "ldh")
    row = {"patient_id": "p", "study_id": "7", "image": "", "text": "worse", "crp": "", "ldh": "300"}
    ids, studies = read_studies(table_writer(tmp_path / "new.csv", [row], columns), exported.data)
    assert ids == ["p 7"]
    assert studies == [StudyInput((), "worse", {"crp": "", "ldh": "300"})]
    with pytest.raises(DataError, match="missing column study_id, image"):
        read_studies(table_writer(tmp_path / "bad.csv", [{"patient_id": "p"}], ("patient_id",)), exported.data)


def test_probabilities_are_named_by_their_class(exported):
    assert list_class_names(exported.data) == ["severe"]


def test_a_new_dicom_file_is_scored_as_the_picture_that_it_shows(exported, image, tmp_path):
    grey, new = np.asarray(Image.open(image)), []
    for inverted in (False, True):
        rows, columns = grey.shape
        scanner = Scanner(rows, columns, 8, inverted, "rle", True, gain=0.8, noise=0.0, blur=0.0, maker="Maker")
        path = tmp_path / f"{inverted}.dcm"
        write_dicom(path, SyntheticHeader("north", "new", "1", 1, 67, "F"), scanner, 255 - grey if inverted else grey)
        new.append(path)
    Image.fromarray(load_image(new[0], 16, 1).reshape(16, 16)).save(tmp_path / "shown.png")
    shown = [StudyInput((path,), "worse today", {"crp": "90"}) for path in (tmp_path / "shown.png", *new)]
    as_picture, as_dicom, as_negative = score_studies(exported, shown)
    assert as_dicom == pytest.approx(as_picture, abs=1e-6)
    assert as_negative == pytest.approx(as_picture, abs=1e-2)  # windows are rounded the other way
    blank = StudyInput((tmp_path / "blank.png",), "worse today", {"crp": "90"})
    Image.fromarray(np.zeros_like(grey)).save(tmp_path / "blank.png")
    assert abs(score_studies(exported, [blank])[0] - as_picture) > 1e-4  # the image counts


def test_paths_may_be_texts_and_values_numbers():
    study = StudyInput(["a.png"], values={"crp": 120, "ldh": np.float32(1.5), "age": None})
    assert study == StudyInput((Path("a.png"),), values={"crp": "120", "ldh": "1.5", "age": ""})


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ({"images": "a.png"}, "images='a.png' is no list"),
        ({"images": [3]}, "images has 3"),
        ({"values": [3]}, "values=.* is no dictionary"),
        ({"values": {"crp": [3]}}, r"values\['crp'\]"),
        ({"text": None}, "text=None"),
    ],
)
def test_an_argument_of_another_type_is_named(argument, said):
    with pytest.raises(DataError, match=said):
        StudyInput(**argument)


def test_no_study_has_no_row(exported):
    assert score_studies(exported, []).shape == (0, 1)


def test_a_model_is_displayed_in_one_line(exported):
    assert repr(exported).startswith(f"ExportedModel({str(exported.folder)!r}): ")
    assert repr(exported).endswith(" numbers")
    assert "\n" not in repr(exported)


def test_a_run_is_no_model_and_one_study_no_list(exported, finished):
    with pytest.raises(DataError, match="not a model") as caught:
        score_studies(finished[0], [StudyInput(text="x")])
    assert "run.model" in caught.value.advice
    with pytest.raises(DataError, match="no list of StudyInput"):
        score_studies(exported, StudyInput(text="x"))
