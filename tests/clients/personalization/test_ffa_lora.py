"""FFA-LoRA: A is not trained; the mean of the sites' products is then the product of the means."""

import pytest
import torch
from torch import nn

from clients.personalization.ffa_lora import FrozenALora
from fedhealth.errors import ConfigError
from fedhealth.models.model_state import list_trained_arrays
from tests.clients.personalization.adapted import AdaptedEncoder


def test_only_b_is_trained_and_travels():
    model = nn.ModuleDict({"encoder": AdaptedEncoder(3)})
    FrozenALora().freeze(model)
    names = list_trained_arrays(model)
    assert names == ["encoder.lora_B.default.weight"]
    assert FrozenALora().select_shared(model, names) == names


def test_the_mean_of_products_is_the_product_of_means():
    torch.manual_seed(0)
    a, b1, b2 = torch.randn(2, 3), torch.randn(8, 2), torch.randn(8, 2)
    assert torch.allclose((b1 @ a + b2 @ a) / 2, (b1 + b2) / 2 @ a, atol=1e-6)
    other = torch.randn(2, 3)
    assert not torch.allclose((b1 @ a + b2 @ other) / 2, (b1 + b2) / 2 @ ((a + other) / 2), atol=1e-2)


def test_a_model_without_adapters_is_refused():
    with pytest.raises(ConfigError, match="no LoRA adapters"):
        FrozenALora().freeze(nn.Linear(1, 1))
