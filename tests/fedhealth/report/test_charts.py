import numpy as np
import pytest
from matplotlib.patches import Rectangle

from fedhealth.evaluation.metrics import Estimate
from fedhealth.report import charts
from fedhealth.report.charts import ChartSeries, RunPoint
from fedhealth.report.svg import PALETTE, figure_to_svg, use_house_style


@pytest.fixture(autouse=True)
def style():
    with use_house_style():
        yield


def test_the_forest_plot_shows_every_estimate():
    rows = [("ours", Estimate(0.9, 0.85, 0.95)), ("theirs", Estimate(0.8, 0.7, 0.88))]
    axes = charts.draw_forest_plot(rows, "AUROC").axes[0]
    points = {line.get_gid(): line.get_xdata()[0] for line in axes.lines if line.get_gid()}
    assert points == {"row-0": 0.9, "row-1": 0.8}
    assert [0.7, 0.88] in [list(line.get_xdata()) for line in axes.lines]


def test_runs_of_equal_cost_stand_side_by_side_and_all_are_in_sight():
    utilities = [Estimate(0.7, 0.6, 0.8), Estimate(0.7, 0.65, 0.75), Estimate(0.9, np.nan, np.nan)]
    points = [RunPoint(str(k), cost, utilities[k], k == 2) for k, cost in enumerate((3.0, 3.0, 8.0))]
    figure = charts.draw_trade_off(points, "epsilon", "AUROC")
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


def test_many_hospitals_are_drawn_alike_and_named_once():
    lines = [ChartSeries(f"site {k}", [0, 1], [0.1, 0.2]) for k in range(12)]
    figure = charts.draw_curves(ChartSeries("all hospitals", [0, 1], [0.5, 0.6]), lines, "AUROC")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["all hospitals", "single hospitals"]


def test_failures_are_crosses():
    figure = charts.draw_timeline(["A", "B"], {("A", 1): 2.0, ("A", 2): 1.0, ("B", 1): 3.0}, {("B", 2)})
    (cross,) = figure.axes[0].lines
    assert (cross.get_marker(), list(cross.get_xdata()), list(cross.get_ydata())) == ("x", [2], [1])
    assert len(figure.axes[0].patches) == 3


def test_the_drawing_takes_colours_font_and_ids_from_the_page():
    figure = charts.draw_traffic_by_site(["A<b>", "北京"], [1e6, 2e6], [3e5, 4e5])
    drawn = figure_to_svg(figure, "chart-7", "Bytes & more", "what it shows")
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
    first, second = (figure_to_svg(charts.draw_forest_plot(rows, "AUROC"), "c", "t", "d") for _ in range(2))
    assert first == second


def test_charts_of_very_many_rounds_and_hospitals_stay_small():
    sites = [f"hospital-{number}" for number in range(100)]
    seconds = {(site, number): float(number) for site in sites for number in range(1, 1001)}
    axes = charts.draw_timeline(sites, seconds, {(sites[3], 7), (sites[3], 8)}).axes[0]
    span = charts.count_rounds_per_column(1000, 100)
    assert len(axes.patches) == 100 * -(-1000 // span) <= 6000
    assert axes.patches[0].get_alpha() == pytest.approx(0.1 + 0.9 * span / 1000)  # the slowest of the first column
    assert len(axes.lines) == 1
    assert axes.get_xlabel() == f"round ({span} to a column)"
    values = [float(number) for number in range(1000)]
    columns = charts.draw_traffic_by_round([str(number) for number in range(1000)], values, values).axes[0].patches
    heights = [each.get_height() for each in columns if isinstance(each, Rectangle)]
    assert len(heights) == len(columns) <= 2 * 180
    assert sum(heights) * charts.count_rounds_per_column(1000) == pytest.approx(2 * sum(values), rel=0.01)


def test_every_round_has_a_column_of_its_own_where_there_is_space():
    assert charts.count_rounds_per_column(180) == charts.count_rounds_per_column(60, 100) == 1
    assert charts.count_rounds_per_column(181) == 2
