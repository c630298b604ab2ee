"""The ratios of the benchmark of ingest: of each turn, and then their median."""

from benchmarks.ingest import compute_ratios


def test_ratios_are_of_each_turn():
    times = {
        "ingest": [2.0, 9.0, 3.0],
        "bare": [1.0, 6.0, 1.0],
        "epoch": [0.1, 0.6, 0.2],
        "ingest cpu": [4.0, 4.4, 4.8],
        "bare cpu": [4.0, 4.0, 4.0],
    }
    assert compute_ratios(times) == {
        "cpu_over_raw_decode": 1.1,
        "cpu_over_raw_decode_range": [1.0, 1.2],
        "over_raw_decode": 2.0,
        "over_raw_decode_range": [1.5, 3.0],
        "epoch_over_decode": 0.1,
        "epoch_over_decode_range": [0.1, 0.2],
    }
