"""Targets of benchmarks that take minutes are of figures that they measure; what is measured is stood in for."""

from benchmarks import core, round_latency
from benchmarks.bare_tls import Cost
from benchmarks.round_meter import RoundCost


def test_core(monkeypatch, tmp_path):
    monkeypatch.setattr(core, "measure_epoch_seconds", lambda folder: (2.0, 0.2))
    answers = {"compare_runtimes": {"local": 700.0, "simulation": 2800.0, "difference": 0.0}}
    called = []

    def call(function, *arguments):
        called.append(function)
        return answers.get(function.rpartition(".")[2], 100.0 + arguments[0] if isinstance(arguments[0], int) else None)

    monkeypatch.setattr(core, "call_in_process", call)
    found = dict(core.measure_figures(tmp_path, quick=True))
    assert {figure.name for figure in core.FIGURES} <= found.keys()
    assert all(hasattr(core, function.rpartition(".")[2]) for function in called)
    assert found["local_over_simulation_peak"] == 0.25
    assert found["server_peak_64_over_4_sites"] == 164 / 104


def test_round_latency(monkeypatch, tmp_path):
    ours = (RoundCost(0.5, 0.8, 900, 400, 4), Cost(0.01, 0.02)), (RoundCost(2.0, 3.0, 9, 9, 1), Cost(0.3, 0.2))
    monkeypatch.setattr(round_latency, "measure_our_rounds", lambda folder, quick: (*ours, {}))
    seconds = {"torch": [5.0, 6.0, 9.0], "clients.app": [10.0, 12.0, 11.0]}
    monkeypatch.setattr(round_latency, "measure_stock_phases", lambda *given: seconds[given[-1]])
    monkeypatch.setattr(round_latency, "measure_idle_share", lambda folder, seconds: 0.1)
    found = dict(round_latency.measure_figures(tmp_path, quick=True))
    assert {figure.name for figure in round_latency.FIGURES} <= found.keys()
    assert found["stock_torch_over_ours"] == 12.0
    assert found["stock_over_ours"] == 22.0
    assert found["exchange_over_bare_tls"] == 80.0
    assert found["exchange_47mb_over_bare_tls_wall"] == 10.0
