"""FedBN: normalisation stays, whichever it is, with its running statistics."""

import pytest
from torch import nn

from clients.personalization.fedbn import FedBN
from fedhealth.errors import ConfigError
from fedhealth.models.model_state import list_trained_arrays


class OwnNorm(nn.LayerNorm):
    """A library's own, under the name libraries give it."""


@pytest.mark.parametrize("norm", [nn.BatchNorm1d(4), nn.LayerNorm(4), nn.GroupNorm(2, 4), nn.RMSNorm(4), OwnNorm(4)])
def test_every_array_of_a_normalisation_layer_stays(norm):
    model = nn.Sequential(nn.Linear(4, 4), norm, nn.Linear(4, 1))
    trained = list_trained_arrays(model)
    assert FedBN().select_shared(model, trained) == ["0.bias", "0.weight", "2.bias", "2.weight"]
    if isinstance(norm, nn.BatchNorm1d):
        assert "1.running_mean" in trained


def test_a_model_without_normalisation_is_refused():
    model = nn.Sequential(nn.Linear(4, 1))
    with pytest.raises(ConfigError, match="no normalization layer"):
        FedBN().select_shared(model, list_trained_arrays(model))
