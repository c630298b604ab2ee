"""The benchmark of secure aggregation follows the protocol's own rules; here with short vectors."""

import pytest

from benchmarks import secagg
from benchmarks.flower_secagg import FlowerFleet


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(secagg, "VALUES", 1000)


def test_uploads_are_measured_in_rounds_of_their_own():
    assert secagg.measure_protect(32, 2).upload_bytes > 4000


@pytest.mark.parametrize("dropped", [0, 2])
def test_a_round_opens_the_mean(dropped):
    assert secagg.measure_round(32, dropped)["error"] < 1e-6


def test_a_large_cohort_is_opened():
    assert secagg.measure_large_cohort(9)["share_bytes"] > 0


def test_an_upload_is_measured_whole():
    """Flower sends eight bytes for each value, ours four, both beside shares and signatures."""
    sent = FlowerFleet(4).build_upload(1, secagg.make_update(0))
    assert 8000 < sum(map(len, sent.values())) < 12_000
    assert 4000 < secagg.measure_upload(32, {"weights": secagg.make_update(0)})[1] < 12_000


def test_every_target_is_of_a_figure_that_is_measured():
    assert {figure.name for figure in secagg.FIGURES} <= dict(secagg.measure_figures(1)).keys()
