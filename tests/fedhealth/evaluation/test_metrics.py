import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, balanced_accuracy_score, roc_auc_score

from fedhealth.evaluation.metrics import (
    METRICS,
    Estimate,
    ScoreTable,
    apply_in_chunks,
    bin_scores,
    build_score_table,
    compute_auprc,
    compute_auroc,
    compute_balanced_accuracy,
    compute_bin_centres,
    compute_calibration_error,
    draw_poisson_weights,
    estimate_biased_interval,
    estimate_interval,
    estimate_metric,
    macro_average,
)

# Few distinct values: ties are the hard part.
CASES = st.lists(
    st.tuples(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0]), st.booleans(), st.integers(0, 3)),
    min_size=2,
    max_size=40,
)


def arrays(cases):
    scores, labels, weights = (np.array(column) for column in zip(*cases, strict=True))
    assume(weights[labels].sum() > 0 and weights[~labels].sum() > 0)
    return scores, labels, weights.astype(float)


@settings(deadline=None)
@given(CASES)
def test_ranking_metrics_are_those_of_scikit_learn_with_ties_and_weights(cases):
    scores, labels, weights = arrays(cases)
    table = build_score_table(scores, labels, weights)
    assert float(compute_auroc(table)) == pytest.approx(roc_auc_score(labels, scores, sample_weight=weights))
    assert float(compute_auprc(table)) == pytest.approx(average_precision_score(labels, scores, sample_weight=weights))
    expected = balanced_accuracy_score(labels, scores >= 0.5, sample_weight=weights)
    assert float(compute_balanced_accuracy(table)) == pytest.approx(expected)


@given(CASES)
def test_a_weight_is_a_repetition(cases):
    scores, labels, weights = arrays(cases)
    repeats = weights.astype(int)
    repeated = build_score_table(np.repeat(scores, repeats), np.repeat(labels, repeats), np.ones(repeats.sum()))
    weighted = build_score_table(scores, labels, weights)
    for metric in METRICS.values():
        assert float(metric(weighted)) == pytest.approx(float(metric(repeated)))


@given(CASES)
def test_calibration_error_is_the_hand_computation(cases):
    scores, labels, weights = arrays(cases)
    gap = 0.0
    for index in range(15):
        low, high = index / 15, (index + 1) / 15
        inside = (scores >= low) & ((scores < high) | (index == 14))
        if weights[inside].sum() > 0:
            stated = np.average(scores[inside], weights=weights[inside])
            observed = np.average(labels[inside], weights=weights[inside])
            gap += weights[inside].sum() / weights.sum() * abs(stated - observed)
    assert float(compute_calibration_error(build_score_table(scores, labels, weights))) == pytest.approx(gap)


def test_calibration_of_a_worked_example():
    table = ScoreTable(np.array([0.1, 0.9]), np.array([1.0, 4.0]), np.array([4.0, 1.0]))
    assert float(compute_calibration_error(table)) == pytest.approx(0.1)  # 0.1 against 0.2, 0.9 against 0.8


@pytest.mark.parametrize(("only", "defined"), [(True, {"auprc", "calibration_error"}), (False, {"calibration_error"})])
def test_one_class_leaves_undefined_what_is_undefined(only, defined):
    table = build_score_table(np.array([0.2, 0.7]), np.array([only, only]), np.ones(2))
    assert {name for name, metric in METRICS.items() if not np.isnan(metric(table))} == defined


def test_resamples_are_computed_along_the_leading_axis():
    generator = np.random.default_rng(0)
    scores, labels, weights = generator.random(30), generator.random(30) < 0.4, generator.poisson(1.0, (7, 30)) * 1.0
    for metric in METRICS.values():
        together = metric(build_score_table(scores, labels, weights))
        assert together.shape == (7,)
        np.testing.assert_allclose(together, [metric(build_score_table(scores, labels, row)) for row in weights])


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 3), st.sampled_from([64, 512, 2048]))
def test_histograms_lose_little_auroc(seed, shift, bins):
    generator = np.random.default_rng(seed)
    labels = np.arange(300) % 3 == 0
    scores = 1 / (1 + np.exp(-generator.normal(labels * float(shift), 1.5)))
    exact = float(compute_auroc(build_score_table(scores, labels, np.ones(300))))
    place, centres = bin_scores(scores, bins), compute_bin_centres(bins)
    counted = [np.bincount(place[side], minlength=bins).astype(float) for side in (labels, ~labels)]
    binned = ScoreTable(centres, *counted)
    tied = sum(counted[0] * counted[1]) / (labels.sum() * (~labels).sum())
    assert (
        abs(float(compute_auroc(binned)) - exact) <= tied / 2 + 1e-12
    )  # only pairs in one bin can change, by half each
    if bins == 2048:
        assert abs(float(compute_auroc(binned)) - exact) < 1 / 500
        assert float(compute_balanced_accuracy(binned)) == pytest.approx(
            float(compute_balanced_accuracy(build_score_table(scores, labels, np.ones(300))))
        )


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.integers(2, 4096))
def test_bins_are_in_range_and_keep_the_order(scores, bins):
    place = bin_scores(np.sort(np.array(scores)), bins)
    assert place.min() >= 0
    assert place.max() < bins
    assert (np.diff(place) >= 0).all()


@given(st.integers(2, 4096))
def test_a_bins_centre_lies_in_it(bins):
    centres = compute_bin_centres(bins)
    assert (np.diff(centres) > 0).all()
    np.testing.assert_array_equal(bin_scores(centres, bins), np.arange(bins))


def test_a_patients_rows_are_drawn_together_and_a_seed_repeats_the_draws():
    clusters = np.array([5, 5, 9, 5, 9])
    weights = draw_poisson_weights(clusters, 200, seed=3)
    assert weights.shape == (200, 5)
    np.testing.assert_array_equal(weights[:, 0], weights[:, 3])
    np.testing.assert_array_equal(weights[:, 2], weights[:, 4])
    assert (weights[:, 0] != weights[:, 2]).any()
    np.testing.assert_array_equal(weights, draw_poisson_weights(clusters, 200, seed=3))
    assert weights.mean() == pytest.approx(1.0, abs=0.2)


def test_macro_leaves_out_classes_without_a_value():
    good = ScoreTable(np.array([0.2, 0.8]), np.array([0.0, 1.0]), np.array([1.0, 0.0]))
    bad = ScoreTable(np.array([0.2, 0.8]), np.array([1.0, 0.0]), np.array([0.0, 1.0]))
    empty = ScoreTable(np.array([0.2]), np.array([0.0]), np.array([1.0]))
    assert float(macro_average(compute_auroc, [good, bad])) == 0.5
    assert float(macro_average(compute_auroc, [good, empty])) == 1.0
    assert np.isnan(macro_average(compute_auroc, [empty]))


def test_an_interval_is_the_percentiles_of_the_defined_resamples():
    found = estimate_interval(np.array([*np.linspace(0, 1, 41), np.nan]), 0.5)
    assert (found.value, found.low, found.high) == (0.5, pytest.approx(0.025), pytest.approx(0.975))
    assert found.as_dict() == {"value": 0.5, "low": 0.025, "high": 0.975}


def test_an_undefined_value_has_no_interval_and_is_null():
    assert estimate_interval(np.array([0.1, 0.2]), float("nan")).as_dict() == {"value": None, "low": None, "high": None}
    assert Estimate(0.5, float("nan"), float("nan")).as_dict()["low"] is None
    assert np.isnan(estimate_interval(np.array([0.3]), 0.3).low)


@given(st.integers(1, 160))
def test_chunks_change_nothing(resamples):
    weights = np.arange(resamples * 2.0).reshape(resamples, 2)
    np.testing.assert_array_equal(apply_in_chunks(lambda part: part.sum(axis=1), weights), weights.sum(axis=1))


def test_a_score_that_is_no_number_is_in_the_bin_of_one_half():
    assert bin_scores(np.array([np.nan, 0.5, 0.0, 1.0]), 8).tolist() == [4, 4, 0, 7]


def rank(scores, labels):
    return float(compute_auroc(build_score_table(scores, labels, np.ones(len(scores)))))


@settings(deadline=None)
@given(st.floats(-20, 20), st.integers(0, 10_000))
def test_scores_that_differ_by_rounding_are_guesses(logit, seed):
    generator = np.random.default_rng(seed)
    labels = generator.permutation(np.arange(40) < 13)
    logits = np.float32(logit) * (1 + generator.integers(-2, 3, 40) * np.finfo(np.float32).eps)
    assert rank(1 / (1 + np.exp(-logits)), labels) == 0.5


def test_rounding_moves_no_score_of_an_edge_into_another_bin():
    edges = np.linspace(-11, 11, 23)[:, None]  # of 24 bins over 24 logits
    logits = edges + np.array([-2e-7, 0.0, 2e-7])
    place = bin_scores(1 / (1 + np.exp(-logits)), 24)
    assert place.tolist() == [[int(edge) + 12] * 3 for edge in edges[:, 0]]


@settings(deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([1.0, 0.01, 1e-4]))
def test_scores_that_differ_keep_their_order(seed, spread):
    generator = np.random.default_rng(seed)
    ranks = generator.permutation(200)
    logits = -6.0 + spread * (ranks - 100) / 10  # down to ten times what rounding changes
    scores, labels = 1 / (1 + np.exp(-logits)), generator.random(200) < 0.3
    table = build_score_table(scores, labels, np.ones(200))
    np.testing.assert_array_equal(table.scores, np.sort(scores))
    assert rank(scores, labels) == pytest.approx(roc_auc_score(labels, ranks))


def test_many_close_scores_are_no_tie_of_all():
    labels = np.arange(20_000) % 2 == 1
    ranks = np.random.default_rng(0).normal(labels * 1.0, 1.0)
    assert rank(0.5 + 1e-4 * ranks, labels) == pytest.approx(roc_auc_score(labels, ranks), abs=1e-3)


def test_scores_next_to_zero_and_one_keep_their_order():
    scores = np.array([0.0, 1e-30, 1e-20, 1e-12, 0.5, 1 - 1e-9, 1 - 1e-12, 1.0])
    np.testing.assert_array_equal(build_score_table(scores, scores > 0.5, np.ones(8)).scores, scores)


def test_a_biased_metric_has_the_basic_lower_end_and_the_percentile_as_its_upper_end():
    found = estimate_biased_interval(np.linspace(0.08, 0.28, 401), 0.15)
    assert (found.low, found.high) == (pytest.approx(0.3 - 0.275), pytest.approx(0.275))
    assert estimate_biased_interval(np.linspace(0.1, 0.4, 41), 0.15).low == 0.0
    below = estimate_biased_interval(np.linspace(0.05, 0.1, 41), 0.15)  # all resamples
    assert (below.low, below.high) == (0.15, 0.15)
    assert np.isnan(estimate_biased_interval(np.array([0.2]), 0.15).low)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000), st.integers(10, 300), st.sampled_from([-2.0, 0.0]))
def test_every_interval_of_a_calibrated_model_holds_the_estimate(seed, size, shift):
    generator = np.random.default_rng(seed)
    scores = 1 / (1 + np.exp(-generator.normal(shift, 1.5, size)))
    weights = np.concatenate([np.ones((1, size)), draw_poisson_weights(np.arange(size), 60, seed)])
    table = build_score_table(scores, generator.random(size) < scores, weights)
    for name, metric in METRICS.items():
        found = estimate_metric(name, metric(table))
        assert np.isnan(found.low) or found.low <= found.value <= found.high, name
        assert np.isnan(found.low) or found.low >= 0


@pytest.mark.parametrize(
    ("spread", "truth", "size", "percentiles_hold"),
    [(1.5, 0.0527, 200, False), (0.05, 0.0744, 60, True)],  # many bins; one, in which the error may be 0 by chance
)
def test_the_interval_of_a_calibration_error_holds_the_truth(spread, truth, size, percentiles_hold):
    held = {estimate_interval: 0, estimate_biased_interval: 0}
    for seed in range(60):
        generator = np.random.default_rng(seed)
        logits = generator.normal(0, spread, size)
        positive = generator.random(size) < 1 / (1 + np.exp(-logits - 0.3))  # the true logits are 0.3 above
        weights = np.concatenate([np.ones((1, size)), draw_poisson_weights(np.arange(size), 100, seed)])
        drawn = compute_calibration_error(build_score_table(1 / (1 + np.exp(-logits)), positive, weights))
        for estimate in held:
            found = estimate(drawn[1:], float(drawn[0]))
            held[estimate] += found.low <= truth <= found.high
    assert (held[estimate_interval] > 50) is percentiles_hold
    assert held[estimate_biased_interval] > 50
