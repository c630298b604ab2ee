"""An own encoder or fusion that does not fit is told by its own place, before anything is read."""

import sys

import pytest
from omegaconf import OmegaConf

from fedhealth.config.compose import compose_config
from fedhealth.errors import FedhealthError
from fedhealth.training.check_model import check_model

MODULE = """
import torch
from torch import nn

class Good(nn.Module):
    def __init__(self, inputs):
        super().__init__()
        self.width, self.layer = 4, nn.Linear(inputs, 4)

    def forward(self, values):
        return self.layer(values)

class Narrow(Good):
    def forward(self, values):
        return self.layer(values)[:, :3]

class Mixing(Good):
    def forward(self, values):
        found = self.layer(values)
        return found - found.mean(dim=0)

class Crashing(Good):
    def forward(self, values):
        return self.layers(values)

class TwoLogits(nn.Module):
    def __init__(self, widths, outputs):
        super().__init__()
        self.layer = nn.Linear(sum(widths), outputs + 1)

    def forward(self, features):
        return self.layer(torch.cat(features, dim=1))
"""


@pytest.fixture
def check(tmp_path, monkeypatch, tiny_overrides):
    """`check(place, name, *overrides)`: check the tiny model with an own class at a place."""
    (tmp_path / "own_checked.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_checked", raising=False)

    def call(place, name, *overrides):
        (folder := tmp_path / "conf" / place).mkdir(parents=True, exist_ok=True)
        (folder / "mine.yaml").write_text(f"_target_: own_checked.{name}\n")
        chosen = [each for each in tiny_overrides(tmp_path) if not each.startswith(place.replace("/", "."))]
        config = compose_config([*chosen, f"{place}=mine", *overrides], tmp_path / "conf")
        check_model(OmegaConf.to_object(config))

    return call


def test_an_encoder_that_fits_passes(check):
    check("model/tabular", "Good", "privacy=patient")


@pytest.mark.parametrize(
    ("place", "name", "problem"),
    [
        ("model/tabular", "Narrow", "model.tabular: own_checked.Narrow (.*): 3 features, but its `width` is 4"),
        (
            "model/tabular",
            "Crashing",
            r"model.tabular: Crashing.forward \(.*own_checked.py, line \d+\) raised Attr",
        ),
        ("model/tabular", "Mixing", "model.tabular: own_checked.Mixing .* mixes the rows of a batch"),
        ("model/fusion", "TwoLogits", "model.fusion: own_checked.TwoLogits .* not logits of shape"),
    ],
)
def test_a_part_that_does_not_fit_is_told_by_its_own_place(check, place, name, problem):
    with pytest.raises(FedhealthError, match=problem):
        check(place, name, "privacy=patient")
