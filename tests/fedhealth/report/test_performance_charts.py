import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.calibration import calibration_curve
from sklearn.metrics import precision_recall_curve, roc_curve

from fedhealth.evaluation.metrics import CALIBRATION_BINS, build_score_table
from fedhealth.report import performance_charts as charts
from fedhealth.report.svg import use_house_style


@pytest.fixture(autouse=True)
def style():
    with use_house_style():
        yield


@pytest.fixture
def scored():
    generator = np.random.default_rng(3)
    scores = np.floor(generator.random(400) * 100) / 100 + 0.001  # ties, and none on a bin's edge
    return scores, generator.random(400) < scores


def test_the_roc_curve_equals_scikit_learns(scored):
    scores, labels = scored
    line = charts.draw_roc({"x": build_score_table(scores, labels, np.ones(400))}).axes[0].lines[1]
    false, true, _ = roc_curve(labels, scores, drop_intermediate=False)
    np.testing.assert_allclose(line.get_xdata(), false)
    np.testing.assert_allclose(line.get_ydata(), true)


def test_the_precision_recall_curve_equals_scikit_learns(scored):
    scores, labels = scored
    line = charts.draw_precision_recall({"x": build_score_table(scores, labels, np.ones(400))}).axes[0].lines[0]
    precision, recall, _ = precision_recall_curve(labels, scores)
    np.testing.assert_allclose(line.get_xdata(), recall[-2::-1])
    np.testing.assert_allclose(line.get_ydata(), precision[-2::-1])


def test_the_calibration_curve_equals_scikit_learns(scored):
    scores, labels = scored
    dots = (
        charts.draw_calibration(build_score_table(scores, labels, np.ones(400))).axes[0].collections[-1].get_offsets()
    )
    observed, stated = calibration_curve(labels, scores, n_bins=CALIBRATION_BINS)
    np.testing.assert_allclose(dots, np.stack([stated, observed], axis=1))


def test_wilsons_interval_equals_scipys():
    low, high = charts.wilson_interval(np.array([3 / 17]), np.array([17.0]))
    expected = binomtest(3, 17).proportion_ci(method="wilson")
    np.testing.assert_allclose([low[0], high[0]], [expected.low, expected.high], rtol=1e-6)
