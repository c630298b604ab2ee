from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhealth.config.schema import (
    ColumnsConfig,
    DataConfig,
    FaultyCells,
    SplitConfig,
    TabularColumnConfig,
    TaskConfig,
    TaskKind,
)
from fedhealth.data import manifest as manifest_module
from fedhealth.data.manifest import format_line_numbers, read_manifest
from fedhealth.data.read_table import read_table
from fedhealth.errors import DataError


def data_of(root, **fields):
    columns = ColumnsConfig(image="image", text="text", study="study")
    return DataConfig(name="t", root=str(root), sites=["a"], **{"columns": columns, **fields})


def write(root, text):
    (root / "manifest.csv").write_text(text, "utf-8")
    return root


HEAD = "patient_id,study,image,text,label\n"


def test_rows_keep_file_order_and_missing_cells_are_empty(tmp_path):
    manifest = read_manifest(data_of(write(tmp_path, HEAD + "p1,s1,a.png,hello,1\np2,s2,,,\n")), "a")
    assert manifest.table["image"].tolist() == ["a.png", ""]
    assert manifest.table["text"].tolist() == ["hello", ""]
    np.testing.assert_array_equal(manifest.labels, np.array([[1], [np.nan]], np.float32))
    assert manifest.labels.dtype == np.float32


def test_a_study_with_several_images_becomes_several_rows_of_one_study(tmp_path):
    manifest = read_manifest(data_of(write(tmp_path, HEAD + "p1,s1,a.png; b.png;,hi,1\np2,s1,c.png,,0\n")), "a")
    assert manifest.table["image"].tolist() == ["a.png", "b.png", "c.png"]
    assert manifest.table["text"].tolist() == ["hi", "hi", ""]
    np.testing.assert_array_equal(manifest.labels[:, 0], [1, 1, 0])


def test_study_numbers_are_counted_within_a_patient(tmp_path):
    text = HEAD + "p1,1,a.png,,1\np2,1,b.png,,0\np1,1,c.png,,1\np1,,d.png,,1\np1,,e.png,,1\n"
    studies = read_manifest(data_of(write(tmp_path, text)), "a").table["study"]
    assert studies[0] == studies[2]
    assert studies.nunique() == 4  # p1/1, p2/1, and the two rows that name none


def test_the_order_mark_of_spreadsheets_is_no_part_of_a_column(tmp_path):
    (tmp_path / "manifest.csv").write_text(HEAD + "p1,s,a.png,,1\n", "utf-8-sig")
    assert len(read_manifest(data_of(tmp_path), "a").table) == 1


def test_faults_name_lines_of_the_file_even_after_notes_that_span_lines(tmp_path):
    text = HEAD + 'p1,s,a.png,"first\nsecond\nthird",1\n\np2,s,b.png,,7\n'
    with pytest.raises(DataError, match=r"invalid label in line 6: '7'"):
        read_manifest(data_of(write(tmp_path, text)), "a")


def test_a_column_called_line_is_nothing_special(tmp_path):
    text = "line,patient_id,study,image,text,label\nx,p1,s,a.png,,1\n"
    manifest = read_manifest(data_of(write(tmp_path, text)), "a")
    assert manifest.table["line"].tolist() == [2]


def test_surplus_cells_do_not_shift_the_columns(tmp_path):
    text = HEAD + "p1,s1,a.png,hi,1,9\np2,s2,b.png,ho,0,9\n"
    with pytest.raises(DataError, match="line 2 has more cells than the header"):
        read_manifest(data_of(write(tmp_path, text)), "a")


def test_a_ragged_line_is_named(tmp_path):
    with pytest.raises(DataError, match="line 3"):
        read_manifest(data_of(write(tmp_path, HEAD + "p1,s1,a.png,hi,1\np2,s2,b.png,ho,0,9\n")), "a")


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00bad\x80,\n", b'a,"b\n'])
def test_what_is_no_table_is_refused(tmp_path, content):
    (tmp_path / "manifest.csv").write_bytes(content)
    with pytest.raises(DataError, match=r"manifest\.csv"):
        read_manifest(data_of(tmp_path), "a")


def test_a_missing_manifest_names_its_path(tmp_path):
    with pytest.raises(DataError, match="the manifest does not exist") as caught:
        read_manifest(data_of(tmp_path), "a")
    assert str(tmp_path / "manifest.csv") in caught.value.problem


def test_every_missing_column_is_named_with_its_nearest_neighbour(tmp_path):
    write(tmp_path, "patient,study,image,txt,label\np1,s,a.png,,1\n")
    with pytest.raises(DataError, match=r"'patient_id' \(did you mean 'patient'\?\), 'text'"):
        read_manifest(data_of(tmp_path), "a")


def test_a_site_is_its_rows_of_the_site_column_whatever_spaces_are_around_its_name(tmp_path):
    text = "hospital," + HEAD + "a,p1,s,a.png,,1\nb,p2,s,b.png,,0\n a ,p3,s,c.png,,0\n"
    manifest = read_manifest(data_of(write(tmp_path, text), site_column="hospital"), "a")
    assert manifest.table["image"].tolist() == ["a.png", "c.png"]
    assert manifest.table["line"].tolist() == [2, 4]


def test_a_site_without_rows_is_refused(tmp_path):
    write(tmp_path, "hospital," + HEAD + "b,p2,s,b.png,,0\n")
    with pytest.raises(DataError, match="site 'a' has no rows") as caught:
        read_manifest(data_of(tmp_path, site_column="hospital"), "a")
    assert "'hospital'" in caught.value.advice


def test_a_row_without_patient_is_refused(tmp_path):
    with pytest.raises(DataError, match="no patient id in line 3"):
        read_manifest(data_of(write(tmp_path, HEAD + "p,s,a.png,,1\n ,s,b.png,,0\n")), "a")


@pytest.mark.parametrize(
    ("task", "cells", "codes"),
    [
        (TaskConfig(classes=["benign", "malignant"]), "benign,malignant,0,1,1.0,", [0, 1, 0, 1, 1, np.nan]),
        (TaskConfig(TaskKind.multiclass, ["x", "y", "z"]), "z,2,0.0,x", [2, 2, 0, 0]),
        (TaskConfig(TaskKind.multiclass, ["1", "2", "3"]), "1,2,3.0", [0, 1, 2]),
    ],
)
def test_labels_are_class_names_or_indices(tmp_path, task, cells, codes):
    rows = "".join(f"p{i},s,a.png,,{cell}\n" for i, cell in enumerate(cells.split(",")))
    labels = read_manifest(data_of(write(tmp_path, HEAD + rows), task=task), "a").labels
    np.testing.assert_array_equal(labels[:, 0], np.array(codes, np.float32))


@pytest.mark.parametrize(
    ("task", "cell"),
    [
        (TaskConfig(), "2"),
        (TaskConfig(), "-1"),
        (TaskConfig(), "0.5"),
        (TaskConfig(), "nan"),
        (TaskConfig(TaskKind.multiclass, ["1", "2", "3"]), "0"),  # not an index where the names are numbers
    ],
)
def test_a_label_outside_the_task_is_refused_with_what_is_allowed(tmp_path, task, cell):
    with pytest.raises(DataError, match=f"line 2: '{cell}'") as caught:
        read_manifest(data_of(write(tmp_path, HEAD + f"p,s,a.png,,{cell}\n"), task=task), "a")
    assert f"Allowed: {task.classes[0]}, {task.classes[1]}" in caught.value.advice


def test_where_faults_count_as_missing_no_label_is_an_error(tmp_path):
    write(tmp_path, HEAD + "p,s,a.png,,1\nq,s,b.png,,maybe\n")
    manifest = read_manifest(data_of(tmp_path, faulty_cells=FaultyCells.missing), "a")
    np.testing.assert_array_equal(manifest.labels[:, 0], np.array([1, np.nan], np.float32))
    (finding,) = manifest.findings
    assert finding.text == "Column 'label': 1 label(s) do not fit the description and count as missing."


def test_a_multilabel_row_may_miss_some_labels(tmp_path):
    write(tmp_path, "patient_id,edema,fracture\np1,1,\np2,0,1\n")
    columns = ColumnsConfig(labels=["edema", "fracture"])
    task = TaskConfig(TaskKind.multilabel, ["edema", "fracture"])
    labels = read_manifest(data_of(tmp_path, columns=columns, task=task), "a").labels
    np.testing.assert_array_equal(labels, np.array([[1, np.nan], [0, 1]], np.float32))


def test_texts_may_lie_in_files(tmp_path):
    (tmp_path / "n1.txt").write_text(" far \n", "utf-8")
    write(tmp_path, "patient_id,note,text,label\np1,n1.txt,near,1\np2, ,near,0\n")
    columns = ColumnsConfig(text="text", text_path="note")
    assert read_manifest(data_of(tmp_path, columns=columns), "a").table["text"].tolist() == ["far", "near"]


def test_a_missing_text_file_is_named_with_its_line(tmp_path):
    write(tmp_path, "patient_id,note,label\np1,,1\np2,gone.txt,1\n")
    with pytest.raises(DataError, match=r"'gone\.txt' in line 3"):
        read_manifest(data_of(tmp_path, columns=ColumnsConfig(text_path="note")), "a")


def test_parquet_says_the_same_as_csv(tmp_path):
    table = pd.DataFrame({"patient_id": [1, 2], "image": ["a.png", None], "label": [1.0, np.nan], "crp": [np.inf, 3.5]})
    table.to_parquet(tmp_path / "m.parquet")
    table.to_csv(tmp_path / "m.csv", index=False)
    columns, tabular = ColumnsConfig(image="image"), {"crp": TabularColumnConfig()}
    one, two = (
        read_manifest(data_of(tmp_path, columns=columns, tabular=tabular, manifest=name), "a")
        for name in ("m.parquet", "m.csv")
    )
    assert one.table["tabular.crp"].tolist() == two.table["tabular.crp"].tolist() == ["inf", "3.5"]
    assert one.table["patient"].tolist() == two.table["patient"].tolist() == ["1", "2"]
    np.testing.assert_array_equal(one.labels, two.labels)


def test_braces_in_a_manifest_name_are_its_own(tmp_path):
    with pytest.raises(DataError, match=r"\{hospital\}-a\.csv"):
        read_manifest(data_of(tmp_path, manifest="{hospital}-{site}.csv"), "a")


def split_of(root, rows, **fields):
    text = "patient_id,label,split\n" + "".join(f"{patient},1,{split}\n" for patient, split in rows)
    data = data_of(write(root, text), columns=ColumnsConfig(split="split"), **fields)
    return read_manifest(data, "a").table["split"].tolist()


def test_the_files_split_is_kept(tmp_path):
    rows = [("p1", "Training"), ("p2", "val"), ("p3", "test")]
    assert split_of(tmp_path, rows) == ["train", "validation", "test"]


def test_validation_is_cut_from_train_where_the_file_has_none(tmp_path):
    rows = [(f"p{i}", "train" if i < 200 else "test") for i in range(250)]
    found = split_of(tmp_path, rows)
    assert found[200:] == ["test"] * 50
    assert 10 < found[:200].count("validation") < 50
    assert set(found[:200]) == {"train", "validation"}


def test_an_empty_split_cell_follows_the_patients_other_rows(tmp_path):
    found = split_of(tmp_path, [("p1", "test"), ("p1", ""), ("p2", ""), ("p2", "validation"), ("p3", "train")])
    assert found == ["test", "test", "validation", "validation", "train"]


def test_a_patient_in_two_splits_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"1 patient\(s\) in more than one split, line 2, 4"):
        split_of(tmp_path, [("p1", "train"), ("p2", "train"), ("p1", "test")])


def test_an_unknown_split_is_refused(tmp_path):
    with pytest.raises(DataError, match="unknown split 'holdout' in line 2"):
        split_of(tmp_path, [("p1", "holdout")])


@settings(max_examples=30, deadline=None)
@given(
    patients=st.lists(st.integers(0, 40), min_size=1, max_size=80),
    newcomers=st.lists(st.integers(41, 60), max_size=20),
)
def test_the_hash_split_is_by_patient_and_adding_patients_moves_nobody(tmp_path_factory, patients, newcomers):
    def splits(ids):
        folder = tmp_path_factory.mktemp("split")
        write(folder, "patient_id,label\n" + "".join(f"p{i},1\n" for i in ids))
        table = read_manifest(data_of(folder, columns=ColumnsConfig(), split=SplitConfig(0.3, 0.3)), "a").table
        assert (table.groupby("patient")["split"].nunique() == 1).all()
        return table.groupby("patient")["split"].first().to_dict()

    before, after = splits(patients), splits([*newcomers, *patients])
    assert before.items() <= after.items()


def test_the_shares_of_the_hash_split_are_those_asked_for(tmp_path):
    write(tmp_path, "patient_id,label\n" + "".join(f"p{i},1\n" for i in range(4000)))
    data = replace(data_of(tmp_path, columns=ColumnsConfig()), split=SplitConfig(validation=0.2, test=0.1))
    shares = read_manifest(data, "a").table["split"].value_counts(normalize=True)
    assert shares["validation"] == pytest.approx(0.2, abs=0.03)
    assert shares["test"] == pytest.approx(0.1, abs=0.03)


def test_lines_are_few_and_sorted():
    assert format_line_numbers([9, 3, 3]) == "line 3, 9"
    assert format_line_numbers(range(2, 12)) == "line 2, 3, 4, 5, 6 and 5 more"


def test_without_a_patient_column_every_row_is_a_patient(tmp_path, table_writer):
    path = table_writer(
        tmp_path / "data.csv", [{"label": "0", "text": "a"}, {"label": "1", "text": "a"}], ("label", "text")
    )
    data = DataConfig(name="x", root=str(tmp_path), manifest=path.name, sites=["s"])
    data.columns = ColumnsConfig(patient=None, text="text", labels=["label"])
    assert read_manifest(data, "s").table["patient"].nunique() == 2


def test_rows_without_a_split_can_be_left_out(tmp_path, table_writer):
    rows = [
        {"patient_id": str(n), "text": "a", "label": "1", "split": split}
        for n, split in enumerate(["train", "", "test"])
    ]
    path = table_writer(tmp_path / "data.csv", rows, ("patient_id", "text", "label", "split"))
    data = DataConfig(name="x", root=str(tmp_path), manifest=path.name, sites=["s"])
    data.columns = ColumnsConfig(text="text", labels=["label"], split="split")
    data.split = SplitConfig(validation=0.0)
    assert read_manifest(data, "s").table["split"].tolist() == ["train", "train", "test"]
    data.split = SplitConfig(validation=0.0, drop_unlisted=True)
    assert read_manifest(data, "s").table["split"].tolist() == ["train", "test"]


def test_the_sites_of_one_process_read_their_common_table_once_and_again_when_it_changed(tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(manifest_module, "read_table", lambda path: read.append(path) or read_table(path))
    head = HEAD.replace("label", "label,site")
    data = data_of(write(tmp_path, head + "p1,s,a.png,,1, a\np2,s,b.png,,0,b\np3,s,c.png,,0,a\n"), site_column="site")
    assert read_manifest(data, "a").table["patient"].tolist() == ["p1", "p3"]
    assert read_manifest(data, "b").table["patient"].tolist() == ["p2"]
    with pytest.raises(DataError, match="has no rows"):
        read_manifest(data, "c")
    assert len(read) == 1
    write(tmp_path, head + "p1,s,a.png,,1,b\n")
    assert read_manifest(data, "b").table["patient"].tolist() == ["p1"]
    assert len(read) == 2
