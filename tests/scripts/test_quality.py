"""The measurement of the recommended settings: recipes are valid, and test patients choose nothing."""

import numpy as np
import pytest

from benchmarks import quality
from benchmarks.quality import HIGHEST_GAP, TARGETS, Bench, find_missed
from fedhealth.config.compose import compose_config
from fedhealth.config.validate import validate_config
from fedhealth.evaluation.predictions import Predictions


class FakeRun:
    """A run whose validation and test patients disagree on the best recipe."""

    cohorts = ("north", "south")

    def __init__(self, name, asked):
        self.name, self.asked = name, asked

    def predict(self, run=None, split="test"):
        self.asked.append((self.name, split))
        good = ("generic" in self.name) == (split == "validation")
        labels = np.array([[0.0], [1.0]] * 20)
        scores = np.where(labels > 0, 0.9, 0.1) if good else np.full_like(labels, 0.5)
        return {site: Predictions(scores, labels, np.arange(40)) for site in self.cohorts}

    def train_on(self, sites):
        assert list(sites) == list(self.cohorts)


@pytest.fixture
def runs(monkeypatch):
    """Every federation is composed and checked, and not run; what is predicted is noted."""
    asked = []

    def compose_only(overrides, folder):
        validate_config(compose_config(overrides))
        return FakeRun(folder.name, asked)

    monkeypatch.setattr(quality, "run_federation", compose_only)
    return asked


@pytest.mark.parametrize("study", quality.STUDIES)
def test_every_recipe_is_a_valid_configuration_and_gives_figures(runs, tmp_path, study):
    figures = dict(quality.STUDIES[study](Bench(tmp_path, tmp_path, 1)))
    assert figures
    assert all(np.isfinite(value) for value in figures.values())
    named = {name for name in TARGETS if name.startswith(study.removeprefix("private_"))}
    assert any(name in figures for name in named) or study == "cxr"


def test_a_recipe_is_chosen_on_validation_patients_alone(runs, tmp_path):
    figures = dict(quality.measure_private_derm(Bench(tmp_path, tmp_path, 1)))
    chosen = [name for name, split in runs if split == "test"]
    assert chosen == ["derm_eps8-generic-0", "derm_eps1-generic-0"]
    assert figures == {"derm_eps8": 0.5, "derm_eps1": 0.5}  # the other recipe would have been better on test patients


def test_missed_targets_are_named():
    reached = dict(TARGETS) | {"centralised_gap_derm": HIGHEST_GAP}
    assert find_missed(reached) == []
    assert find_missed(reached | {"derm_eps1": 0.88}) == ["derm_eps1"]
    assert find_missed({"centralised_gap_derm": HIGHEST_GAP + 0.001}) == ["centralised_gap_derm"]
