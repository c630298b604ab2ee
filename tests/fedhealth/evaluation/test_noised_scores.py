"""Scores with noise: intervals that hold the truth, no impossible numbers, and nothing where the noise is too large."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import roc_auc_score

from benchmarks import private_scores
from fedhealth.evaluation.metrics import METRICS
from fedhealth.evaluation.noised_scores import (
    NoisedCells,
    bootstrap_noised_auroc,
    compute_noised_auprc,
    compute_noised_auroc,
    count_score_cells,
    estimate_noised_metrics,
    is_scorable,
)

counts = arrays(float, 12, elements=st.floats(-60, 400))


@pytest.mark.parametrize("setting", [s for s in private_scores.SETTINGS if s.epsilon == 8 and s.prevalence == 0.3])
def test_intervals_hold_the_true_value(setting):
    releases = 40
    coverage, refused = private_scores.measure_coverage(setting, releases)
    assert refused == 0
    assert set(coverage) == set(METRICS)
    assert all(share >= 0.85 for share in coverage.values()), coverage  # 34 of 40: .95 is missed once in 10,000


def test_the_estimate_is_not_biased_by_noise():
    setting = private_scores.SETTINGS[-1]
    truth = private_scores.compute_true_metrics(setting)["auroc"]
    drawn = [private_scores.release_and_sum(setting, seed) for seed in range(60)]
    found = [float(compute_noised_auroc(each.positives[0], each.negatives[0])) for each in drawn]
    assert np.mean(found) == pytest.approx(truth, abs=4 * np.std(found) / math.sqrt(60))


def test_coarse_cells_give_the_auroc_of_exact_scores():
    generator = np.random.default_rng(0)
    labels = np.arange(40_000) % 2
    scores = generator.normal(0, 1.5, 40_000) + 1.5 * labels
    place = np.clip(np.floor((scores + 8) / 16 * 12), 0, 11).astype(int)
    sides = [np.bincount(place[labels == side], minlength=12).astype(float) for side in (1, 0)]
    assert float(compute_noised_auroc(*sides)) == pytest.approx(roc_auc_score(labels, scores), abs=0.004)


@given(counts, counts, st.floats(0.1, 30))
def test_no_impossible_number_is_reported(positives, negatives, noise_std):
    found = estimate_noised_metrics([NoisedCells(positives, negatives, noise_std)], 20, 0)
    for estimate in found.values():
        numbers = (estimate.low, estimate.value, estimate.high)
        assert all(math.isnan(number) for number in numbers) or 0 <= numbers[0] <= numbers[1] <= numbers[2] <= 1


@given(counts, counts)
def test_precision_is_a_share(positives, negatives):
    area, room = compute_noised_auprc(NoisedCells(np.abs(positives), np.abs(negatives), 0.0))
    if positives.any():
        assert -1e-9 <= area <= area + room <= 1 + 1e-9


def test_what_is_lost_in_the_noise_is_not_reported():
    lost = NoisedCells(np.full(12, 10.0), np.full(12, 100.0), 10.0)  # 120 positives, noise 35 of their sum
    clear = NoisedCells(np.full(12, 20.0), np.full(12, 100.0), 10.0)
    assert [is_scorable(lost), is_scorable(clear)] == [False, True]
    assert all(math.isnan(each.value) for each in estimate_noised_metrics([lost], 20, 0).values())
    assert np.isnan(bootstrap_noised_auroc([lost], 20, 0)).all()
    both, one = (estimate_noised_metrics(columns, 20, 0) for columns in ([lost, clear], [clear]))
    assert both == one


def test_more_noise_means_wider_intervals_and_fewer_cells():
    positives, negatives = np.linspace(0, 200, 12), np.linspace(200, 0, 12)
    widths = [
        found.high - found.low
        for std in (0.5, 5.0, 30.0)
        for found in [estimate_noised_metrics([NoisedCells(positives, negatives, std)], 400, 0)["auroc"]]
    ]
    assert widths[0] < widths[1] < widths[2]
    assert [count_score_cells(epsilon) for epsilon in (0.5, 2, 8)] == [12, 12, 20]
