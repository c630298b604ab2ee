import numpy as np
import pytest
import torch
from torch import nn

from fedhealth.config.schema import TaskKind
from fedhealth.data.examples import Examples, ModalitySource
from fedhealth.evaluation.predictions import (
    Predictions,
    ScoreHistograms,
    bootstrap_metrics,
    compute_histogram_metrics,
    compute_metrics,
    count_scores,
    predict_studies,
)


class Echo(nn.Module):
    """Returns the tabular inputs as logits."""

    def __init__(self, outputs):
        super().__init__()
        self.outputs = outputs
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, batch):
        return batch["tabular"] if "tabular" in batch else torch.zeros(len(batch["tabular_present"]), self.outputs)


def examples(logits, labels, study=None, patient=None):
    logits = np.asarray(logits, np.float32)
    rows = np.arange(len(logits))
    return Examples(
        {"tabular": ModalitySource(logits, rows)},
        np.asarray(labels, np.float32),
        rows if patient is None else np.asarray(patient),
        rows if study is None else np.asarray(study),
    )


def test_a_study_is_scored_once_by_the_mean_of_its_logits():
    given = examples([[0.0], [2.0], [4.0]], [[1], [0], [1]], study=[7, 3, 7], patient=[1, 0, 1])
    found = predict_studies(Echo(1), given, np.array([2, 1, 0]), TaskKind.binary)
    np.testing.assert_allclose(found.scores[:, 0], 1 / (1 + np.exp([-2.0, -2.0])))
    np.testing.assert_array_equal(found.labels[:, 0], [0, 1])
    np.testing.assert_array_equal(found.patient, [0, 1])


@pytest.mark.parametrize("batch_size", [1, 2, 256])
def test_the_batch_size_does_not_matter(batch_size):
    given = examples(np.random.default_rng(0).normal(size=(9, 1)), np.ones((9, 1)), study=[0, 1, 2] * 3)
    found = predict_studies(Echo(1), given, np.arange(9), TaskKind.binary, batch_size)
    np.testing.assert_array_equal(found.scores, predict_studies(Echo(1), given, np.arange(9), TaskKind.binary).scores)


def test_a_multiclass_label_is_one_hot_and_scores_sum_to_one():
    given = examples([[1, 2, 3], [900, 0, -900]], [[2], [np.nan]])
    found = predict_studies(Echo(3), given, np.arange(2), TaskKind.multiclass)
    np.testing.assert_array_equal(found.labels, [[0, 0, 1], [np.nan] * 3])
    np.testing.assert_allclose(found.scores.sum(axis=1), 1)
    np.testing.assert_allclose(found.scores[1], [1, 0, 0], atol=1e-12)


def test_extreme_logits_are_probabilities():
    found = predict_studies(Echo(1), examples([[-2000.0], [2000.0]], [[0], [1]]), np.arange(2), TaskKind.binary)
    np.testing.assert_array_equal(found.scores[:, 0], [0, 1])


@pytest.mark.parametrize(
    ("kind", "outputs", "label"), [(TaskKind.binary, 1, 1), (TaskKind.multiclass, 3, 1), (TaskKind.multilabel, 2, 2)]
)
def test_no_rows_still_have_the_width_of_the_task(kind, outputs, label):
    given = examples(np.zeros((4, outputs)), np.zeros((4, label)))
    found = predict_studies(Echo(outputs), given, np.array([], np.int64), kind)
    assert found.scores.shape == found.labels.shape == (0, outputs)
    assert count_scores(found, 8).positives.shape == (outputs, 8)
    assert all(np.isnan(value.value) for value in compute_metrics(found, 5).values())


def predictions(size=200, seed=0, missing=0.0):
    generator = np.random.default_rng(seed)
    labels = (generator.random((size, 2)) < [[0.3, 0.6]]).astype(float)
    scores = 1 / (1 + np.exp(-generator.normal(labels * 2 - 1, 1.5)))
    labels[generator.random(labels.shape) < missing] = np.nan
    return Predictions(scores, labels, np.arange(size) // 2)


def test_counts_are_of_the_known_labels_and_add_up_over_sites():
    one, other = predictions(seed=1, missing=0.2), predictions(seed=2)
    counts = count_scores(one, 64)
    assert counts.positives.sum() == (one.labels == 1).sum()
    assert counts.negatives.sum() == (one.labels == 0).sum()
    both = Predictions(*(np.concatenate([getattr(one, n), getattr(other, n)]) for n in ("scores", "labels", "patient")))
    more, pooled = count_scores(other, 64), count_scores(both, 64)
    np.testing.assert_array_equal(counts.positives + more.positives, pooled.positives)
    np.testing.assert_array_equal(counts.negatives + more.negatives, pooled.negatives)


def test_scores_of_histograms_are_close_to_the_exact_ones():
    given = predictions(2000, missing=0.1)
    exact, binned = compute_metrics(given, 200), compute_histogram_metrics(count_scores(given, 2048), 200)
    assert exact.keys() == binned.keys()
    for name, value in exact.items():
        assert binned[name].value == pytest.approx(value.value, abs=2e-3)
        assert binned[name].low == pytest.approx(value.low, abs=0.02)
        assert binned[name].high == pytest.approx(value.high, abs=0.02)


def test_the_interval_holds_the_value_and_narrows_with_patients():
    few, many = (compute_metrics(predictions(size), 200)["auroc"] for size in (60, 3000))
    for found in (few, many):
        assert found.low < found.value < found.high
    assert many.high - many.low < (few.high - few.low) / 3


def test_patients_with_more_studies_widen_the_interval():
    given = predictions(400)
    together = Predictions(given.scores, given.labels, np.arange(400) // 40)
    apart = Predictions(given.scores, given.labels, np.arange(400))
    widths = [np.std(bootstrap_metrics(one, 300)["calibration_error"][1:]) for one in (together, apart)]
    assert np.isfinite(widths).all()
    draws = bootstrap_metrics(together, 300)["auroc"]
    assert draws.shape == (301,)
    assert draws[0] == bootstrap_metrics(apart, 1)["auroc"][0]


def test_the_same_seed_pairs_two_models():
    given = predictions(300)
    better = Predictions(np.where(given.labels == 1, given.scores**0.5, given.scores), given.labels, given.patient)
    one, other = (bootstrap_metrics(each, 200, seed=4)["auroc"] for each in (given, better))
    assert (other - one >= 0).all()
    assert np.std(other - one) < np.std(one)


def test_a_column_without_labels_is_left_out():
    given = predictions(100)
    given.labels[:, 1] = np.nan
    alone = Predictions(given.scores[:, :1], given.labels[:, :1], given.patient)
    assert compute_metrics(given, 10)["auroc"] == compute_metrics(alone, 10)["auroc"]


def test_one_class_counts_have_no_auroc():
    counts = ScoreHistograms(np.array([[3, 0]]), np.array([[0, 0]]))
    assert compute_histogram_metrics(counts, 5)["auroc"].as_dict() == {"value": None, "low": None, "high": None}


@pytest.mark.parametrize("kind", [TaskKind.binary, TaskKind.multiclass])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_logit_that_is_not_finite_falls_into_a_fixed_bin(kind, value):
    """Without a warning, which the tests would make an error: under privacy neither may depend on a patient."""
    columns = 1 if kind is TaskKind.binary else 3
    logits = np.zeros((4, columns))
    logits[2], logits[3, 0] = value, -value
    found = predict_studies(Echo(columns), examples(logits, np.ones((4, 1)), [0, 1, 2, 2]), np.arange(4), kind)
    np.testing.assert_array_equal(found.scores[2], found.scores[0])
    assert (count_scores(found, 16).positives + count_scores(found, 16).negatives).sum() == 3 * columns


def test_a_model_that_predicts_the_same_for_everybody_guesses_in_every_resample():
    generator = np.random.default_rng(0)
    logits = generator.integers(-1, 2, (120, 1)) * np.float32(3e-8)
    given = examples(logits, generator.random((120, 1)) < 0.3)
    scored = predict_studies(Echo(1), given, np.arange(120), TaskKind.binary)
    for found in (compute_metrics(scored, 50), compute_histogram_metrics(count_scores(scored, 2048), 50)):
        assert found["auroc"].as_dict() == {"value": 0.5, "low": 0.5, "high": 0.5}
