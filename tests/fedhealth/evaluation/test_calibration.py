"""Calibration at one hospital: its own scores shrunk towards the pooled ones; bounds that hold."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from benchmarks import value
from fedhealth.evaluation.calibration import (
    CONFIDENCE,
    OWN_BINS,
    PRIOR_STUDIES,
    calibrate_classes,
    fit_logistic,
    spread_pooled_scores,
)
from fedhealth.evaluation.metrics import ScoreTable, bin_scores, compute_balanced_accuracy, compute_bin_centres
from fedhealth.evaluation.predictions import Predictions, ScoreHistograms, count_scores

NOBODY = ScoreHistograms(np.zeros((1, OWN_BINS), np.int64), np.zeros((1, OWN_BINS), np.int64))


def drawn(studies, seed=0, slope=2.0, shift=1.0, prevalence=0.3, bins=OWN_BINS):
    """Return counts of a model whose logits are `slope` times the true ones, plus `shift`."""
    generator = np.random.default_rng(seed)
    labels = (generator.random(studies) < prevalence).astype(float)
    logit = 1.5 * (generator.standard_normal(studies) + (labels - 0.5) * 1.5) + np.log(prevalence / (1 - prevalence))
    scores = 1 / (1 + np.exp(-(slope * logit + shift)))
    return count_scores(Predictions(scores[:, None], labels[:, None], np.arange(studies)), bins)


def test_many_own_studies_show_temperature_and_offset():
    (found,) = calibrate_classes(drawn(200_000), None)
    assert found.temperature == pytest.approx(2.0, rel=0.03)
    assert found.offset == pytest.approx(-0.5, abs=0.03)  # (2 x + 1) / 2 - .5 = x


def test_few_own_studies_are_shrunk_towards_the_pooled_and_many_are_not():
    pooled = drawn(50_000, seed=1, slope=1.0, shift=0.0)
    fitted = [calibrate_classes(counts, pooled)[0] for counts in (NOBODY, drawn(10), drawn(100_000))]
    assert fitted[0].temperature == pytest.approx(1.0, rel=0.1)
    assert fitted[0].temperature < fitted[1].temperature < fitted[2].temperature == pytest.approx(2.0, rel=0.05)


def test_without_pooled_scores_the_bound_is_clopper_and_pearson():
    (found,) = calibrate_classes(drawn(80), None)
    counts = drawn(80)
    wrong, studies = np.cumsum(counts.positives[0]), counts.positives.sum()
    for place in np.flatnonzero(counts.positives[0])[:-1]:
        one_sided = binomtest(int(wrong[place]), int(studies), alternative="less").proportion_ci(CONFIDENCE).high
        assert found.missed.mark_safe_bins(one_sided + 1e-6)[place]
        assert not found.missed.mark_safe_bins(one_sided - 1e-6)[place]


def test_pooled_scores_count_like_so_many_studies_of_each_kind():
    (alone,) = calibrate_classes(drawn(400), None)
    (together,) = calibrate_classes(drawn(400), drawn(4000, seed=2))
    assert together.missed.studies == alone.missed.studies + PRIOR_STUDIES
    limit = 1 - (1 - CONFIDENCE) ** (1 / together.missed.studies)  # nobody is missed
    assert together.missed.mark_safe_bins(limit + 1e-6)[0]
    assert not alone.missed.mark_safe_bins(limit + 1e-6)[0]


def test_the_threshold_is_the_share_with_the_class_and_gives_the_best_balanced_accuracy():
    (found,) = calibrate_classes(drawn(200_000), None)
    assert found.threshold == pytest.approx(0.3, abs=0.005)
    counts, scores = drawn(200_000, seed=1), compute_bin_centres(OWN_BINS)
    table = ScoreTable(found.calibrate_scores(scores), counts.positives[0], counts.negatives[0])
    reached = [float(compute_balanced_accuracy(table, at)) for at in (found.threshold, *np.linspace(0.05, 0.95, 91))]
    assert reached[0] >= max(reached) - 0.002
    assert calibrate_classes(NOBODY, None)[0].threshold == 0.5


def test_a_hospital_without_studies_abstains_on_everything():
    (found,) = calibrate_classes(NOBODY, drawn(50_000))
    assert set(found.decide_studies(np.linspace(0.0, 1.0, 101), 0.1)) == {-1}


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 1000),
    studies=st.integers(0, 300),
    risks=st.tuples(st.floats(0.001, 0.999), st.floats(0.001, 0.999)),
)
def test_a_smaller_risk_never_decides_a_study_that_a_larger_one_leaves_open(seed, studies, risks):
    (found,) = calibrate_classes(drawn(studies, seed), drawn(500, seed=3, bins=64))
    small, large = sorted(risks)
    scores = np.linspace(0, 1, 200)
    strict, loose = (found.decide_studies(scores, risk) for risk in (small, large))
    assert not ((strict >= 0) & (loose < 0)).any()
    assert (np.diff(found.find_band(large)) >= 1).all()
    assert (np.diff(found.calibrate_scores(scores)) >= 0).all()


def test_classes_that_lie_apart_need_no_abstention_and_meet_both_risks():
    scores = np.concatenate([np.full(100, 0.02), np.full(100, 0.98)])
    labels = np.repeat([0.0, 1.0], 100)
    (found,) = calibrate_classes(
        count_scores(Predictions(scores[:, None], labels[:, None], np.arange(200)), OWN_BINS), None
    )
    assert np.array_equal(found.decide_studies(scores, 0.05), labels)
    low, high = found.find_band(0.05)
    assert high == low + 1
    assert found.missed.mark_safe_bins(0.05)[low]
    assert found.called.mark_safe_bins(0.05)[high]


def test_cells_of_another_width_keep_their_studies():
    pooled = drawn(3000, bins=64)
    (shares,) = spread_pooled_scores(pooled)
    kinds = np.array([pooled.positives.sum(), pooled.negatives.sum()]) / 3000
    np.testing.assert_allclose(shares.sum(axis=1), kinds)
    place = bin_scores(np.array([0.5]), OWN_BINS)[0]  # an edge in both
    np.testing.assert_allclose(shares[0, :place].sum(), pooled.positives[0, :32].sum() / 3000)


def test_pooled_scores_that_the_noise_hides_do_not_count():
    generator = np.random.default_rng(0)
    positives, negatives = (generator.normal(0, 300, (1, 12)) for _ in range(2))
    (hidden,) = calibrate_classes(drawn(50), ScoreHistograms(positives, negatives, 300.0))
    (alone,) = calibrate_classes(drawn(50), None)
    assert not hidden.has_pooled
    assert (hidden.temperature, hidden.offset) == (alone.temperature, alone.offset)
    assert np.array_equal(hidden.missed.wrong, alone.missed.wrong)


@pytest.mark.parametrize("is_private", [False, True])
def test_synthetic_hospitals_keep_their_risk(monkeypatch, is_private):
    monkeypatch.setattr(value, "TRUE_STUDIES", 5000)
    found = value.average_rows([row for seed in range(2) for row in value.measure_repetition(seed, is_private)])
    assert found["after"] <= found["before"] / 2
    assert found["within"] >= 0.9 > 0.6 > found["pooled_within"]


def test_the_last_line_of_the_benchmark_is_json(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["value", "--quick"])
    monkeypatch.setattr(value, "measure_repetition", lambda seed, is_private: [dict.fromkeys(value.FIGURES, 0.5)])
    value.main()
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {"calibration_error_before", "calibration_error_after", "sites_within_risk"} <= set(figures)


def test_without_studies_the_scores_stay_as_they_are():
    assert fit_logistic(np.zeros((2, OWN_BINS))) == (1.0, 0.0)
