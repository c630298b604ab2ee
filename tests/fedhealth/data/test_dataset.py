import csv
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedhealth.config.schema import (
    ColumnKind,
    ColumnsConfig,
    DataConfig,
    ImageDataConfig,
    PublicConfig,
    TabularColumnConfig,
    TaskConfig,
    TaskKind,
)
from fedhealth.data import dataset as module
from fedhealth.data.dataset import compute_dataset_digest, prepare_dataset
from fedhealth.data.image.load import load_image
from fedhealth.errors import DataError


@pytest.fixture
def data(hospitals, tmp_path):
    return DataConfig(
        name="t",
        root=str(hospitals),
        manifest="{site}/manifest.csv",
        cache=str(tmp_path / "cache"),
        sites=["north"],
        columns=ColumnsConfig(study="study_id", image="image", text="text"),
        image=ImageDataConfig(16, 1),
        tabular={"crp": TabularColumnConfig(center=50, scale=50), "ldh": TabularColumnConfig(center=300, scale=100)},
    )


@pytest.fixture
def rewrite(hospitals, table_writer):
    """Change north's manifest: `rewrite(lambda rows: ...)`."""

    def change(edit):
        path = hospitals / "north" / "manifest.csv"
        head, *lines = path.read_text("utf-8").splitlines()
        rows = [dict(zip(head.split(","), next(csv.reader([line])), strict=True)) for line in lines]
        rows = edit(rows) or rows
        return table_writer(path, rows)

    return change


def each(field, value):
    def edit(rows):
        for number, row in enumerate(rows):
            row[field] = value(number) if callable(value) else value

    return edit


def texts_of(cohort):
    """Return the texts of a cohort's findings."""
    return tuple(each.text for each in cohort.findings)


def test_a_cohort_has_every_row_with_its_own_image(data, hospitals):
    found = prepare_dataset(data, "north")
    assert found.counts() == {
        "rows": 24,
        "patients": 24,
        "unlabelled": 0,
        "image": 24,
        "text": 24,
        "tabular": 24,
        "rejected": 0,
    } | {split: len(found.rows(split)) for split in ("train", "validation", "test")}
    assert found.images.shape == (24, 1, 16, 16)
    assert (found.tabular.shape, found.labels.shape) == ((24, 4), (24, 1))
    for row in (0, 11, 23):
        expected = load_image(hospitals / "north" / "images" / f"{row}.png", 16, 1)
        np.testing.assert_array_equal(found.images[found.image_index[row]], expected)
    assert found.findings == ()
    assert len(np.unique(found.study)) == 24  # every patient's first study is called 1


def test_splits_part_the_rows(data):
    found = prepare_dataset(data, "north")
    rows = np.concatenate([found.rows(split) for split in ("train", "validation", "test")])
    np.testing.assert_array_equal(np.sort(rows), np.arange(24))


def test_the_second_time_nothing_is_decoded(data, monkeypatch):
    first = prepare_dataset(data, "north")

    def never(*arguments):
        raise AssertionError("decoded again")

    monkeypatch.setattr("fedhealth.data.image.load.load_image", never)
    second = prepare_dataset(data, "north")
    assert second.folder == first.folder
    assert isinstance(second.images, np.memmap)
    np.testing.assert_array_equal(second.images, first.images)
    assert second.texts == first.texts


@pytest.mark.parametrize(
    "change",
    [
        lambda data: replace(data, image=ImageDataConfig(8, 1)),
        lambda data: replace(data, tabular={"crp": TabularColumnConfig()}),
        lambda data: replace(data, task=TaskConfig(classes=["mild", "severe"])),
    ],
)
def test_another_configuration_is_another_cache(data, change):
    assert prepare_dataset(change(data), "north").folder != prepare_dataset(data, "north").folder


def test_who_else_takes_part_does_not_change_the_cache(data):
    moved = replace(data, sites=["north", "south"], name="other")
    assert prepare_dataset(moved, "north").folder == prepare_dataset(data, "north").folder


def test_a_changed_image_is_read_again(data, hospitals):
    before = prepare_dataset(data, "north")
    image = hospitals / "north" / "images" / "0.png"
    image.write_bytes((hospitals / "north" / "images" / "1.png").read_bytes())
    os.utime(image, ns=(1, 1))
    after = prepare_dataset(data, "north")
    np.testing.assert_array_equal(after.images[after.image_index[0]], before.images[before.image_index[1]])


def test_a_changed_text_file_is_read_again(data, hospitals, rewrite):
    note = hospitals / "north" / "note.txt"
    note.write_text("before", "utf-8")
    rewrite(each("text", "note.txt"))
    data = replace(data, columns=ColumnsConfig(image="image", text_path="text"))
    assert set(prepare_dataset(data, "north").texts) == {"before"}
    note.write_text("after!", "utf-8")
    assert set(prepare_dataset(data, "north").texts) == {"after!"}


def test_a_build_that_fails_leaves_nothing_behind(data, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "encode_columns", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        prepare_dataset(data, "north")
    assert list((tmp_path / "cache" / "north").iterdir()) == []


def test_the_cache_is_for_its_owner_and_names_no_patient(data, tmp_path):
    folder = prepare_dataset(data, "north").folder
    assert (tmp_path / "cache" / "north").stat().st_mode & 0o077 == 0
    assert folder.stat().st_mode & 0o077 == 0
    for path in folder.iterdir():
        assert b"north-" not in path.read_bytes()


def test_progress_counts_the_images(data):
    seen = []
    prepare_dataset(data, "north", lambda done, total: seen.append((done, total)))
    assert seen == [(done, 24) for done in range(1, 25)]


def test_few_unreadable_images_are_set_aside_and_count_as_missing(data, hospitals):
    (hospitals / "north" / "images" / "3.png").write_bytes(b"no image")
    (hospitals / "north" / "images" / "5.png").unlink()
    found = prepare_dataset(replace(data, max_rejected=0.1), "north")
    assert [entry.path for entry in found.rejected] == ["images/3.png", "images/5.png"]
    np.testing.assert_array_equal(np.flatnonzero(found.image_index < 0), [3, 5])
    assert found.counts()["rejected"] == 2
    assert texts_of(found) == ("2 unreadable image file(s) were rejected and count as missing.",)


def test_too_many_unreadable_images_are_refused_each_with_its_reason(data, hospitals):
    for number in range(7):
        (hospitals / "north" / "images" / f"{number}.png").write_bytes(b"")
    with pytest.raises(DataError) as caught:
        prepare_dataset(data, "north")
    problem = caught.value.problem
    assert "7 of 24 image files are unreadable" in problem
    assert str(hospitals / "north" / "images" / "0.png") in problem
    assert "the file is empty" in problem
    assert "and 2 more" in problem
    assert "data.max_rejected (now 0.025)" in caught.value.advice


def test_modalities_may_be_missing_row_by_row(data, rewrite):
    def edit(rows):
        rows[0]["image"] = ""
        rows[1]["text"] = " "
        rows[2]["crp"] = rows[2]["ldh"] = ""

    rewrite(edit)
    found = prepare_dataset(data, "north")
    assert found.image_index[0] == -1
    assert found.texts[1] == ""
    np.testing.assert_array_equal(np.flatnonzero(~found.tabular_present), [2])


def test_a_row_without_anything_is_left_out_with_a_warning(data, rewrite):
    def edit(rows):
        rows[4] |= {"image": "", "text": "", "crp": "", "ldh": ""}

    rewrite(edit)
    found = prepare_dataset(data, "north")
    assert len(found.split) == 23
    assert texts_of(found) == ("1 row(s) have no image, text or value and are ignored.",)


def test_a_site_without_any_image_text_or_value_is_refused(data, rewrite):
    rewrite(lambda rows: [row | {"image": "", "text": "", "crp": "", "ldh": ""} for row in rows])
    with pytest.raises(DataError, match="no row of 'north' has an image, a text or a value"):
        prepare_dataset(data, "north")


def test_a_site_without_images_has_an_empty_table_of_the_right_shape(data, rewrite):
    rewrite(each("image", ""))
    assert prepare_dataset(data, "north").images.shape == (0, 1, 16, 16)


@pytest.mark.parametrize("whose", ["train", "everyone"])
def test_a_site_without_labelled_training_rows_is_refused(data, rewrite, whose):
    splits = prepare_dataset(data, "north").split

    def edit(rows):
        for row, split in zip(rows, splits, strict=True):
            row["label"] = "" if whose == "everyone" or split == 0 else row["label"]

    rewrite(edit)
    with pytest.raises(DataError, match="site 'north' has no labelled training row"):
        prepare_dataset(data, "north")


def test_unlabelled_rows_are_kept_but_not_trained_on(data, rewrite):
    rewrite(each("label", lambda number: "" if number < 12 else str(number % 2)))
    found = prepare_dataset(data, "north")
    assert len(found.rows("train", labelled=False)) > len(found.rows("train"))
    assert found.counts()["unlabelled"] == 12
    assert found.rows("train").min() >= 12


def test_one_class_and_constant_columns_are_warnings(data, rewrite):
    def edit(rows):
        for row in rows:
            row |= {"label": "1", "ldh": "250", "crp": ""}

    rewrite(edit)
    data = replace(data, task=TaskConfig(classes=["mild", "severe"]))
    assert texts_of(prepare_dataset(data, "north")) == (
        "Every labelled training row is of one class (severe).",
        "Column 'ldh' has the same value in every row.",
        "No row has a value of crp.",
    )


def test_a_one_class_label_of_several_is_named(data, rewrite):
    rewrite(each("ldh", "0"))
    data = replace(
        data,
        columns=ColumnsConfig(image="image", labels=["label", "ldh"]),
        task=TaskConfig(TaskKind.multilabel, ["label", "ldh"]),
        tabular={},
    )
    assert texts_of(prepare_dataset(data, "north"))[0] == "Every labelled training row is of one class (ldh=0)."


def test_a_constant_categorical_column_is_a_warning(data, rewrite):
    rewrite(each("ldh", "F"))
    sex = TabularColumnConfig(kind=ColumnKind.categorical, levels=["F", "M"])
    found = prepare_dataset(replace(data, tabular={"crp": TabularColumnConfig(scale=10), "ldh": sex}), "north")
    assert texts_of(found) == ("Column 'ldh' has the same value in every row.",)


def test_the_rejected_list_can_be_read_by_hospital_it(data, hospitals):
    (hospitals / "north" / "images" / "3.png").write_bytes(b"no image")
    folder = prepare_dataset(replace(data, max_rejected=1.0), "north").folder
    report = json.loads((folder / "report.json").read_text("utf-8"))
    assert [entry["path"] for entry in report["rejected"]] == ["images/3.png"]


def test_the_digest_is_known_without_decoding_and_names_the_public_rows_too(data, rewrite, hospitals):
    digest = compute_dataset_digest(data, "north")
    assert not (Path(data.cache) / "north").exists()
    assert digest == prepare_dataset(data, "north").digest
    shared = replace(data, public=PublicConfig(str(hospitals / "south"), "manifest.csv"))
    with_public = compute_dataset_digest(shared, "north")
    assert with_public.startswith(f"{digest}-")
    (hospitals / "south" / "images" / "0.png").write_bytes(b"changed")
    assert compute_dataset_digest(shared, "north") != with_public
    rewrite(each("crp", "12"))
    assert compute_dataset_digest(data, "north") != digest
