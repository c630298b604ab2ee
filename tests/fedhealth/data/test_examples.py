from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedhealth.data.dataset import SiteDataset
from fedhealth.data.examples import Examples, ModalitySource, build_examples, iterate_batches, load_or_compute_array


def examples():
    images = np.arange(2 * 1 * 2 * 2, dtype=np.uint8).reshape(2, 1, 2, 2)
    tabular = np.arange(6, dtype=np.float32).reshape(3, 2)
    sources = {
        "image": ModalitySource(images, np.array([1, -1, 0])),
        "tabular": ModalitySource(tabular, np.array([0, 1, 2])),
        "text": ModalitySource(np.zeros((0, 1), np.int64), np.array([-1, -1, -1])),
    }
    labels = np.array([[1], [np.nan], [0]], np.float32)
    return Examples(sources, labels, np.array([0, 1, 1]), np.array([0, 1, 2]))


def test_a_batch_holds_values_and_presence_zero_where_missing():
    batch = examples().batch(np.array([1, 2]))
    assert batch["image"].shape == (2, 1, 2, 2)
    assert not batch["image"][0].any()
    assert batch["image"][1].flatten().tolist() == [0, 1, 2, 3]
    assert batch["image_present"].tolist() == [False, True]
    assert batch["tabular"].tolist() == [[2, 3], [4, 5]]


def test_values_nobody_has_are_left_out_but_not_their_absence():
    batch = examples().batch(np.array([0, 1]))
    assert "text" not in batch
    assert batch["text_present"].tolist() == [False, False]


def test_an_empty_batch_is_possible():
    batch = examples().batch(np.array([], np.int64))
    assert set(batch) == {"image_present", "text_present", "tabular_present"}
    assert all(len(value) == 0 for value in batch.values())


def test_batches_do_not_share_memory_with_the_table():
    given_examples = examples()
    given_examples.batch(np.array([0, 1]))["tabular"].zero_()
    assert given_examples.sources["tabular"].values[0].tolist() == [0, 1]


def test_targets_keep_missing_labels():
    targets = examples().targets(np.array([0, 1]))
    assert targets.dtype == torch.float32
    np.testing.assert_array_equal(targets.numpy(), np.array([[1], [np.nan]], np.float32))


def test_features_stand_in_for_their_modality():
    features = ModalitySource(np.ones((2, 5), np.float32), np.array([1, -1, 0]))
    stood_in = examples().with_source("image_features", features, replacing="image")
    batch = stood_in.batch(np.array([0, 1]))
    assert "image" not in batch
    assert batch["image_features"].shape == (2, 5)
    assert batch["image_present"].tolist() == [True, False]


def cohort(tmp_path, texts):
    size = len(texts)
    index = np.arange(size)
    return SiteDataset(
        "a",
        tmp_path,
        index,
        index,
        np.zeros(size, np.int8),
        np.zeros((size, 1), np.float32),
        np.zeros((size, 1, 2, 2), np.uint8),
        index,
        tuple(texts),
        np.zeros((size, 2), np.float32),
        np.array([number % 2 == 0 for number in range(size)]),
        (),
        (),
    )


def lengths(texts):
    return np.array([[len(text)] for text in texts], np.int64)


def test_examples_have_the_modalities_of_the_model(tmp_path):
    found = build_examples(cohort(tmp_path, ["a", "", "bbb", "a"]), frozenset({"text", "tabular"}), lengths)
    assert set(found.sources) == {"text", "tabular"}
    text, present = found.sources["text"].take(np.arange(4))
    assert text.flatten().tolist() == [1, 0, 3, 1]
    assert present.tolist() == [True, False, True, True]
    assert len(found.sources["text"].values) == 2  # each text is tokenized once
    assert found.sources["tabular"].index.tolist() == [0, -1, 2, -1]


def test_a_site_without_texts_needs_no_tokenizer_call(tmp_path):
    def never(texts):
        raise AssertionError

    found = build_examples(cohort(tmp_path, ["", ""]), frozenset({"text"}), never)
    assert "text" not in found.batch(np.array([0, 1]))


def test_cached_arrays_are_computed_once_per_identity(tmp_path):
    calls = []

    def compute():
        calls.append(1)
        return np.arange(3.0)

    first, second = (load_or_compute_array(tmp_path, "x", "same", compute) for _ in range(2))
    load_or_compute_array(tmp_path, "x", "other", compute)
    assert len(calls) == 2
    assert isinstance(second, np.memmap)
    np.testing.assert_array_equal(first, [0, 1, 2])


def test_a_failed_computation_leaves_no_file(tmp_path):
    with pytest.raises(ZeroDivisionError):
        load_or_compute_array(tmp_path, "x", "same", lambda: np.arange(1 // 0))
    assert list(tmp_path.iterdir()) == []


@given(size=st.integers(1, 30), batch=st.integers(1, 12), seed=st.integers(0, 5))
def test_each_epoch_visits_every_row_once_in_an_order_of_its_own(size, batch, seed):
    rows = np.arange(100, 100 + size)
    steps = -(-size // batch)
    drawn = list(islice(iterate_batches(rows, batch, np.random.default_rng(seed)), 2 * steps))
    for half in (drawn[:steps], drawn[steps:]):
        np.testing.assert_array_equal(np.sort(np.concatenate(half)), rows)
    assert all(len(chosen) <= batch for chosen in drawn)
    again = list(islice(iterate_batches(rows, batch, np.random.default_rng(seed)), 2 * steps))
    for one, other in zip(drawn, again, strict=True):
        np.testing.assert_array_equal(one, other)


def test_epochs_differ_in_order():
    drawn = list(islice(iterate_batches(np.arange(50), 50, np.random.default_rng(0)), 2))
    assert (drawn[0] != drawn[1]).any()
