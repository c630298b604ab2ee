"""FedTower: one tower stays; the token for those without the modality is shared."""

import pytest

from clients.personalization.fedtower import FedTower
from fedhealth.errors import ConfigError
from tests.clients.personalization.line import Line

TRAINED = ["fusion.head.0.weight", "towers.image.encoder.weight", "towers.image.missing.weight", "towers.text.x"]


def test_the_tower_stays():
    shared = ["fusion.head.0.weight", "towers.image.missing.weight", "towers.text.x"]
    assert FedTower("image").select_shared(Line(), TRAINED) == shared


def test_an_absent_tower_is_refused_and_the_present_are_named():
    with pytest.raises(ConfigError, match="no 'text' tower") as caught:
        FedTower("text").select_shared(Line(), ["fusion.head.weight"])
    assert "tabular" in caught.value.advice
