import numpy as np
import pytest
from scipy.stats import bootstrap
from sklearn.metrics import roc_auc_score

from fedhealth.evaluation.predictions import Predictions, count_scores
from fedhealth.report.sweep_page import build_differences_section
from fedhealth.runs.paired_bootstrap import compute_differences, load_test_predictions
from fedhealth.runs.run_dir import PREDICTIONS_FILE
from fedhealth.runs.table import load_run_entries
from tests.fedhealth.runs.test_table import write


@pytest.fixture
def scored():
    """Two models that agree on most patients: labels [N], probabilities [N] of each."""
    generator = np.random.default_rng(5)
    labels = (generator.random(400) < 0.4).astype(float)
    common = 1.6 * labels + generator.normal(0, 1, 400)
    better, worse = (common + generator.normal(0, noise, 400) for noise in (0.1, 0.7))
    return labels, 1 / (1 + np.exp(-better)), 1 / (1 + np.exp(-worse))


def leave(run, scores, labels, patient=None):
    """Leave a run's test predictions and their histograms."""
    patient = np.arange(len(labels)) if patient is None else patient
    folder = run / "sites" / "A"
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / PREDICTIONS_FILE, scores=scores[:, None], labels=labels[:, None], patient=patient)
    counts = count_scores(Predictions(scores[:, None], labels[:, None], patient), 2048)
    pair = {"test.positives": counts.positives, "test.negatives": counts.negatives}
    np.savez(run / "score_histograms.npz", **pair)


@pytest.fixture
def two(tmp_path, scored):
    labels, better, worse = scored
    runs = [write(tmp_path / "sweep", place, 0.9 - 0.1 * place, 8, 100) for place in range(2)]
    for run, scores in zip(runs, (better, worse), strict=True):
        leave(run, scores, labels)
    return load_run_entries([tmp_path / "sweep"])


def test_the_paired_interval_is_scipys(two, scored):
    labels, better, worse = scored
    (found,) = compute_differences(two[0], two[1:])
    assert found.paired

    def gain(rows):
        return roc_auc_score(labels[rows], better[rows]) - roc_auc_score(labels[rows], worse[rows])

    expected = bootstrap(
        (np.arange(400),), gain, vectorized=False, n_resamples=1000, method="percentile", random_state=1
    ).confidence_interval
    assert found.gain.value == pytest.approx(gain(np.arange(400)))
    assert found.gain.low == pytest.approx(expected.low, abs=0.004)
    assert found.gain.high == pytest.approx(expected.high, abs=0.004)


def test_without_single_scores_the_interval_is_wider_and_says_so(two):
    paired = compute_differences(two[0], two[1:])[0]
    for path in two[1].folder.rglob(PREDICTIONS_FILE):
        path.unlink()
    (found,) = compute_differences(two[0], two[1:])
    assert not found.paired
    assert found.gain.value == pytest.approx(paired.gain.value, abs=0.002)
    assert found.gain.high - found.gain.low > 1.5 * (paired.gain.high - paired.gain.low)
    assert "not paired" in str(build_differences_section(two[0], [found]))


def test_other_patients_are_never_paired(two, scored):
    labels, _, worse = scored
    leave(two[1].folder, worse, labels, np.arange(400) // 2)
    assert not compute_differences(two[0], two[1:])[0].paired
    leave(two[1].folder, worse, 1 - labels)
    assert not compute_differences(two[0], two[1:])[0].paired


def test_what_has_no_test_result_is_left_out(two):
    for path in [*two[1].folder.rglob(PREDICTIONS_FILE), two[1].folder / "score_histograms.npz"]:
        path.unlink()
    again = load_run_entries([two[0].folder, two[1].folder])
    assert compute_differences(again[0], again[1:]) == []
    assert build_differences_section(again[0], []) is None


def test_sites_are_pooled_with_their_patients_apart(two, scored):
    labels, better, _ = scored
    (two[0].folder / "sites" / "B").mkdir()
    stored = {"scores": better[:, None], "labels": labels[:, None], "patient": np.arange(400)}
    np.savez(two[0].folder / "sites" / "B" / PREDICTIONS_FILE, **stored)
    assert len(np.unique(load_test_predictions(two[0].folder).patient)) == 800
