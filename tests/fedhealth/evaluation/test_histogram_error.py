import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from fedhealth.evaluation import histogram_error, metrics
from fedhealth.evaluation.metrics import ScoreTable


def histogram(scores, labels, bins):
    places = metrics.bin_scores(scores, bins)
    return [np.bincount(places[labels == value], minlength=bins) for value in (1, 0)]


def from_histogram(name, positives, negatives):
    used = positives + negatives > 0
    table = ScoreTable(metrics.compute_bin_centres(len(positives))[used], positives[used], negatives[used])
    return float(metrics.METRICS[name](table))


def exact(name, scores, labels):
    return float(metrics.METRICS[name](metrics.build_score_table(scores, labels == 1, np.ones(len(scores)))))


@st.composite
def studies(draw):
    """Scores with and without ties and clusters, both classes present."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    size, spread, grid = draw(st.integers(2, 300)), draw(st.floats(0.001, 6)), draw(st.sampled_from([0, 3, 50]))
    labels = (generator.random(size) < draw(st.floats(0.02, 0.98))).astype(int)
    labels[:2] = 0, 1
    logits = generator.normal(draw(st.floats(-3, 3)), spread, size) + draw(st.floats(-1, 3)) * labels
    scores = 1 / (1 + np.exp(-logits))
    return (np.round(scores * grid) / grid if grid else scores), labels


@pytest.mark.parametrize("name", list(histogram_error.ERROR_BOUNDS))
@given(studies(), st.sampled_from([4, 16, 64, 2048]))
@settings(max_examples=150, deadline=None)
def test_no_score_is_further_off_than_stated(name, drawn, bins):
    scores, labels = drawn
    positives, negatives = histogram(scores, labels, bins)
    stated = histogram_error.ERROR_BOUNDS[name](positives, negatives)
    off = abs(from_histogram(name, positives, negatives) - exact(name, scores, labels))
    assert off <= stated + 1e-9


@given(st.integers(0, 2**32 - 1), st.floats(0.2, 3), st.floats(-4, 1), st.integers(100, 3000))
@settings(max_examples=60, deadline=None)
def test_auroc_of_2048_bins_is_scikit_learns_to_two_thousandths(seed, separation, base, size):
    generator = np.random.default_rng(seed)
    labels = (generator.random(size) < 0.3).astype(int)
    labels[:2] = 0, 1
    scores = 1 / (1 + np.exp(-(generator.normal(base, 1.5, size) + separation * labels)))
    positives, negatives = histogram(scores, labels, 2048)
    assert abs(from_histogram("auroc", positives, negatives) - roc_auc_score(labels, scores)) < 0.002


def test_the_bound_on_average_precision_is_met_by_the_best_and_the_worst_order():
    positives, negatives = np.array([3, 0, 2]), np.array([2, 1, 4])
    stated = histogram_error.bound_auprc_error(positives, negatives)
    labels = np.repeat([1, 0] * 3, [3, 2, 0, 1, 2, 4])
    worst = np.repeat([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [3, 2, 0, 1, 2, 4]) + np.arange(12) / 100
    worst[labels == 1] -= 0  # positives below the negatives of their bin
    best = np.repeat([2.0, 1.0, 4.0, 3.0, 6.0, 5.0], [3, 2, 0, 1, 2, 4])
    seen = float(metrics.compute_auprc(ScoreTable(np.arange(3.0), positives, negatives)))
    reached = [average_precision_score(labels, order) for order in (best, worst)]
    assert stated == pytest.approx(max(abs(value - seen) for value in reached))


def test_edges_are_where_scores_change_bins():
    low, high = histogram_error.compute_bin_edges(16)
    inside = (low + high) / 2
    assert list(metrics.bin_scores(inside, 16)) == list(range(16))
    assert (low[0], high[-1]) == (0.0, 1.0)
