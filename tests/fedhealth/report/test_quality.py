"""What the report says of the exported round."""

from dataclasses import replace

import pytest

from fedhealth.report.quality import build_learning_section
from fedhealth.report.svg import use_house_style
from fedhealth.runs.load_record import load_run_record
from fedhealth.runs.record import SelectedRound


@pytest.fixture
def notes_of(run):
    def read(selected, **strategy):
        found = load_run_record(run.write())
        config = {**found.config, "strategy": {"rounds": found.completed_rounds, "patience": None, **strategy}}
        with use_house_style():
            return " ".join(build_learning_section(replace(found, config=config, selected=selected)).notes)

    return read


def test_the_score_of_the_best_of_many_rounds_is_called_too_high(notes_of):
    found = notes_of(SelectedRound(1, 0.9, ""))
    assert "is that of round 1 of" in found
    assert "the fewer patients it is from" in found
    assert "too high" not in notes_of(SelectedRound(1, 0.9, "The round could not be evaluated."))


@pytest.mark.parametrize("selected", [SelectedRound(1, 0.9, ""), SelectedRound(1, 0.9, "For a reason.")])
def test_an_early_end_names_the_planned_rounds_and_the_setting(notes_of, selected):
    assert "before the 300 planned rounds" in notes_of(selected, rounds=300, patience=5)
    assert "strategy.patience=5" in notes_of(selected, rounds=300, patience=5)
    assert "planned rounds" not in notes_of(selected, rounds=300)
    assert "planned rounds" not in notes_of(selected, patience=5)
