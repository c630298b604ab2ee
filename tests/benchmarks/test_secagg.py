"""The benchmark of secure aggregation follows the protocol's own rules; here with short vectors."""

import pytest

from benchmarks import secagg


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
