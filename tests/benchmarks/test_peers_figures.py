import pytest
from rich.console import Console

from benchmarks.peers_figures import MEBIBYTE, Outcome, Series, compute_figures, make_table
from benchmarks.peers_usage import Usage


def make_series(task, variant, contestant, cpu, memory=100, score=0.8, sent=None):
    usages = [Usage(wall, cpu + extra, memory * MEBIBYTE) for wall, extra in ((1.0, -1.0), (2.0, 0.0), (9.0, 50.0))]
    return Series(task, variant, contestant, [Outcome(usage, score, sent) for usage in usages])


@pytest.fixture
def found():
    return [
        make_series("tabular", "plain", "bare", 4),
        make_series("tabular", "plain", "fedhealth", 8, 40, 0.81),
        make_series("tabular", "plain", "flower", 24, 120, sent=1_062_560),
        make_series("tabular", "plain", "nvflare", 20, 100),
        make_series("tabular", "dp", "bare", 10),
        make_series("tabular", "dp", "fedhealth", 15),
        make_series("tabular", "dp", "flower", 45, 400),
        make_series("tabular", "secagg", "fedhealth", 10, 60),
        make_series("tabular", "secagg", "flower", 40, 120),
        make_series("image", "plain", "bare", 10),
        make_series("image", "plain", "fedhealth", 12, 90),
        make_series("image", "plain", "flower", 18, 100),
    ]


def test_figures_are_ratios_of_medians(found):
    figures = compute_figures(found)
    assert figures["cpu_over_bare_tabular"] == 2.0
    assert figures["cpu_over_bare_image"] == 1.2
    assert figures["peers_best_over_ours_tabular"] == 2.5, "the best peer is the cheapest"
    assert figures["peers_best_over_ours_image"] == 1.5
    assert figures["score_minus_bare_tabular"] == 0.01


def test_private_runs_are_compared_with_private_loops(found):
    figures = compute_figures(found)
    assert figures["cpu_over_bare_tabular_dp"] == 1.5
    assert figures["peers_best_over_ours_tabular_dp"] == 3.0


def test_secure_aggregation_is_compared_with_peers_that_have_it_and_with_all(found):
    figures = compute_figures(found)
    assert figures["cpu_over_bare_tabular_secagg"] == 2.5
    assert figures["peers_best_over_ours_tabular_secagg"] == 4.0
    assert figures["plain_peers_best_over_ours_tabular_secagg"] == 2.0


def test_memory_is_that_of_the_worse_task(found):
    figures = compute_figures(found)
    assert figures["memory_over_best_peer"] == 0.9
    assert figures["memory_over_best_peer_secagg"] == 0.5
    assert figures["memory_over_best_peer_dp"] == 0.25


def test_without_peers_their_figures_are_absent(found):
    figures = compute_figures([each for each in found if each.contestant in ("bare", "fedhealth")])
    assert figures["cpu_over_bare_image"] == 1.2
    assert not [name for name in figures if "peer" in name]


def test_the_table_has_every_contestant_and_the_reasons_of_the_missing(found):
    console = Console(width=160, record=True)
    with console.capture() as capture:
        console.print(make_table(found, {"fl4health": "no Python 3.10"}))
    lines = capture.get().splitlines()
    flower = next(line for line in lines if "flower" in line)
    assert [cell.strip() for cell in flower.split("│")[1:-1]] == [
        *("tabular", "plain", "flower", "2.0", "24.0", "6.00", "120", "1063", "0.800")
    ]
    assert "not known" in next(line for line in lines if "nvflare" in line)
    assert "not measured: no Python 3.10" in next(line for line in lines if "fl4health" in line)
