"""Local adapters: what LoRA adds stays, the rest travels."""

import pytest
from torch import nn

from clients.personalization.adapters import LocalAdapters
from fedhealth.errors import ConfigError
from fedhealth.models.model_state import list_trained_arrays
from tests.clients.personalization.adapted import AdaptedEncoder


def test_adapters_stay_and_the_rest_travels():
    model = nn.ModuleDict({"encoder": AdaptedEncoder(3), "head": nn.Linear(8, 1)})
    assert LocalAdapters().select_shared(model, list_trained_arrays(model)) == ["head.bias", "head.weight"]


def test_a_model_without_adapters_is_refused():
    with pytest.raises(ConfigError, match="no LoRA adapters"):
        LocalAdapters().select_shared(nn.Linear(1, 1), ["weight", "bias"])
