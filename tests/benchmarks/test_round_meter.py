"""What a round costs, from a run's events and the processors' time at the end of each round."""

import pytest

from benchmarks.round_meter import RoundCost, RoundMeter, summarize_rounds
from fedhealth.runs.run_dir import RunDir


def make_round(seconds):
    answers = [
        {"event": "site_answered", "site": site, "sent": 100 + len(site), "received": 50, "seconds": seconds}
        for site in ("a", "bb", "ccc")
    ]
    return [*answers, {"event": "round_completed", "seconds": seconds}]


def test_the_first_round_is_left_out():
    events = [*make_round(9.0), *make_round(1.0), *make_round(3.0), *make_round(1.5)]
    assert summarize_rounds(events, [20.0, 20.5, 21.5, 21.8]) == RoundCost(1.5, pytest.approx(0.6), 102, 50, 3)


def test_one_round_is_too_few():
    with pytest.raises(ValueError, match="1 completed rounds"):
        summarize_rounds(make_round(1.0), [1.0])


def test_processor_time_is_noted_at_the_end_of_each_round(tmp_path):
    run = RunDir(tmp_path / "run")
    run.create(run="bench")
    with RoundMeter(run) as meter:
        for number in range(3):
            for event in make_round(1.0):
                run.append_event(event.pop("event"), **event)
            while len(meter._cpu) <= number:
                pass
    assert meter.summarize().wall == 1.0
    assert meter.summarize().cpu >= 0
