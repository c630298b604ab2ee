import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhealth.data.concat import ConcatenatedArray, concat_examples
from fedhealth.data.examples import Examples, ModalitySource
from fedhealth.evaluation.pooling import pool_predictions
from fedhealth.evaluation.predictions import Predictions


@given(st.lists(st.integers(0, 5), min_size=1, max_size=5), st.integers(0, 99))
def test_stacked_tables_read_like_one(sizes, seed):
    generator = np.random.default_rng(seed)
    parts = [generator.random((size, 2)) for size in sizes]
    whole, stacked = np.concatenate(parts), ConcatenatedArray(parts)
    assert (len(stacked), stacked.shape, stacked.dtype) == (len(whole), whole.shape, whole.dtype)
    index = generator.integers(0, len(whole), 12) if len(whole) else np.array([], np.int64)
    np.testing.assert_array_equal(stacked[index], whole[index])


def site(values, index, labels, **more):
    rows = np.arange(len(labels))
    sources = {"tabular": ModalitySource(np.asarray(values, np.float32), np.asarray(index))} | more
    return Examples(sources, np.asarray(labels, np.float32).reshape(-1, 1), rows // 2, rows)


def test_every_row_keeps_its_values_label_and_patient():
    one = site([[1, 1], [2, 2]], [1, -1, 0], [0, 1, np.nan])
    other = site([[3, 3]], [-1, 0], [1, 0])
    pooled = concat_examples([one, other])
    for offset, part in ((0, one), (3, other)):
        rows = np.arange(len(part.labels))
        expected, found = part.batch(rows), pooled.batch(rows + offset)
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value)
        np.testing.assert_array_equal(pooled.targets(rows + offset), part.targets(rows))
    np.testing.assert_array_equal(pooled.patient, [0, 0, 1, 2, 2])
    np.testing.assert_array_equal(pooled.study, [0, 1, 2, 3, 4])


def test_a_modality_that_one_site_lacks_is_missing_in_its_rows():
    image = ModalitySource(np.ones((2, 1, 2, 2), np.uint8), np.array([0, 1]))
    pooled = concat_examples([site([[1]], [0, 0], [0, 1]), site([[1]], [0, 0], [0, 1], image=image)])
    batch = pooled.batch(np.arange(4))
    assert batch["image_present"].tolist() == [False, False, True, True]
    assert batch["image"].shape == (4, 1, 2, 2)


@pytest.mark.parametrize("pad", [0, 1])
def test_token_tables_of_different_length_are_filled_with_padding(pad):
    short = ModalitySource(np.array([[5, 6]]), np.array([0]))
    long = ModalitySource(np.array([[7, 8, 9]]), np.array([0]))
    pooled = concat_examples([site([[1]], [0], [0], text=short), site([[1]], [0], [0], text=long)], pad)
    assert pooled.batch(np.arange(2))["text"].tolist() == [[5, 6, pad], [7, 8, 9]]


@pytest.mark.parametrize("name", ["text", "image"])
def test_what_nobody_has_is_missing_everywhere(name):
    empty = ModalitySource(np.zeros((0, 1), np.int64), np.array([-1, -1]))
    pooled = concat_examples([site([[1]], [0, 0], [0, 1], **{name: empty})] * 2)
    batch = pooled.batch(np.arange(4))
    assert name not in batch
    assert batch[f"{name}_present"].tolist() == [False] * 4


def test_predictions_are_pooled_with_patients_apart():
    one = Predictions(np.array([[0.1], [0.2]]), np.array([[0.0], [1.0]]), np.array([0, 0]))
    none = Predictions(np.zeros((0, 1)), np.zeros((0, 1)), np.zeros(0, np.int64))
    pooled = pool_predictions([one, none, one])
    np.testing.assert_array_equal(pooled.patient, [0, 0, 1, 1])
    np.testing.assert_array_equal(pooled.scores[:, 0], [0.1, 0.2, 0.1, 0.2])


def test_images_of_eight_and_sixteen_bits_are_equally_bright():
    parts = [np.array([[0], [255]], np.uint8), np.array([[65535], [257]], np.uint16)]
    stacked = ConcatenatedArray(parts)
    assert stacked.dtype == np.uint16
    assert stacked[np.array([1, 2, 3, 0])].tolist() == [[65535], [65535], [257], [0]]
