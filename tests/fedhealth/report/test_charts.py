import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.calibration import calibration_curve
from sklearn.metrics import precision_recall_curve, roc_curve

from fedhealth.evaluation.metrics import CALIBRATION_BINS, Estimate, tabulate
from fedhealth.report import charts
from fedhealth.report.charts import Point, Series
from fedhealth.report.svg import PALETTE, house_style, inline


@pytest.fixture(autouse=True)
def style():
    with house_style():
        yield


@pytest.fixture
def scored():
    generator = np.random.default_rng(3)
    scores = np.floor(generator.random(400) * 100) / 100 + 0.001  # ties, and none on a bin's edge
    return scores, generator.random(400) < scores


def test_the_forest_plot_shows_every_estimate():
    rows = [("ours", Estimate(0.9, 0.85, 0.95)), ("theirs", Estimate(0.8, 0.7, 0.88))]
    axes = charts.forest(rows, "AUROC").axes[0]
    points = {line.get_gid(): line.get_xdata()[0] for line in axes.lines if line.get_gid()}
    assert points == {"row-0": 0.9, "row-1": 0.8}
    assert [0.7, 0.88] in [list(line.get_xdata()) for line in axes.lines]


def test_runs_of_equal_cost_stand_side_by_side_and_all_are_in_sight():
    utilities = [Estimate(0.7, 0.6, 0.8), Estimate(0.7, 0.65, 0.75), Estimate(0.9, np.nan, np.nan)]
    points = [Point(str(k), cost, utilities[k], k == 2) for k, cost in enumerate((3.0, 3.0, 8.0))]
    figure = charts.frontier(points, "epsilon", "AUROC")
    figure.canvas.draw()
    (axes,) = figure.axes
    dots = {line.get_gid(): line for line in axes.lines if line.get_gid()}
    drawn = {name: line.get_transform().transform(line.get_xydata())[0] for name, line in dots.items()}
    assert drawn["run-1"][0] - drawn["run-0"][0] > 8
    assert drawn["run-0"][1] == pytest.approx(drawn["run-1"][1])
    assert dots["run-2"].get_marker() == "D"
    assert all(axes.bbox.contains(*place) for place in drawn.values())
    low, high = axes.get_ylim()
    assert low < 0.6
    assert high > 0.9


def test_the_roc_curve_equals_scikit_learns(scored):
    scores, labels = scored
    line = charts.roc({"x": tabulate(scores, labels, np.ones(400))}).axes[0].lines[1]
    false, true, _ = roc_curve(labels, scores, drop_intermediate=False)
    np.testing.assert_allclose(line.get_xdata(), false)
    np.testing.assert_allclose(line.get_ydata(), true)


def test_the_precision_recall_curve_equals_scikit_learns(scored):
    scores, labels = scored
    line = charts.precision_recall({"x": tabulate(scores, labels, np.ones(400))}).axes[0].lines[0]
    precision, recall, _ = precision_recall_curve(labels, scores)
    np.testing.assert_allclose(line.get_xdata(), recall[-2::-1])
    np.testing.assert_allclose(line.get_ydata(), precision[-2::-1])


def test_the_calibration_curve_equals_scikit_learns(scored):
    scores, labels = scored
    dots = charts.calibration(tabulate(scores, labels, np.ones(400))).axes[0].collections[-1].get_offsets()
    observed, stated = calibration_curve(labels, scores, n_bins=CALIBRATION_BINS)
    np.testing.assert_allclose(dots, np.stack([stated, observed], axis=1))


def test_wilsons_interval_equals_scipys():
    low, high = charts.wilson(np.array([3 / 17]), np.array([17.0]))
    expected = binomtest(3, 17).proportion_ci(method="wilson")
    np.testing.assert_allclose([low[0], high[0]], [expected.low, expected.high], rtol=1e-6)


def test_many_hospitals_are_drawn_alike_and_named_once():
    lines = [Series(f"site {k}", [0, 1], [0.1, 0.2]) for k in range(12)]
    figure = charts.curves(Series("all hospitals", [0, 1], [0.5, 0.6]), lines, "AUROC")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["all hospitals", "single hospitals"]


def test_failures_are_crosses():
    figure = charts.timeline(["A", "B"], {("A", 1): 2.0, ("A", 2): 1.0, ("B", 1): 3.0}, {("B", 2)})
    (cross,) = figure.axes[0].lines
    assert (cross.get_marker(), list(cross.get_xdata()), list(cross.get_ydata())) == ("x", [2], [1])
    assert len(figure.axes[0].patches) == 3


def test_the_drawing_takes_colours_font_and_ids_from_the_page():
    figure = charts.traffic(["A<b>", "北京"], [1e6, 2e6], [3e5, 4e5])
    drawn = inline(figure, "chart-7", "Bytes & more", "what it shows")
    assert "#00" not in drawn.lower().replace("#chart", "")
    assert "var(--series-1)" in drawn
    assert PALETTE[0] not in drawn
    assert "DejaVu" not in drawn
    assert "http" not in drawn
    assert "<text" in drawn
    assert '<title id="chart-7-t">Bytes &amp; more</title>' in drawn
    assert drawn.count('id="') == drawn.count('id="chart-7-')
    assert "A&lt;b&gt;" in drawn


def test_drawing_twice_gives_the_same():
    rows = [("ours", Estimate(0.9, 0.85, 0.95))]
    first, second = (inline(charts.forest(rows, "AUROC"), "c", "t", "d") for _ in range(2))
    assert first == second
