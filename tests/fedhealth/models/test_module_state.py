"""Modules get back what they held beside parameters; what they hold now may be other tensors, or more of them."""

import copy

import pytest
import torch
from torch import nn

from fedhealth.models.module_state import ModuleState, describe_modules


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.register_buffer("count", torch.tensor(3))
        self.register_buffer("late", None)
        self.length, self.note, self.seen = 5, None, []


@pytest.fixture(name="model")
def model_():
    return nn.ModuleDict({"first": Layer(), "second": Layer()})


def count_up(layer):
    layer.count += 1


def replace_count(layer):
    with torch.inference_mode():
        layer.count = layer.count + 1


def lengthen_count(layer):
    layer.count = torch.arange(9)


def remove_count(layer):
    del layer.count


@pytest.mark.parametrize("change", [count_up, replace_count, lengthen_count, remove_count])
def test_a_buffer_is_the_tensor_that_it_was_with_its_value(model, change):
    buffer, state = model["first"].count, ModuleState(model)
    change(model["first"])
    state.restore()
    assert model["first"].count is buffer
    assert model["first"].count == 3


def test_what_is_made_later_is_removed(model):
    state = ModuleState(model)
    layer = model["second"]
    layer.late, layer.length, layer.note, layer.steps = torch.ones(1), 6, "used", 1
    layer.register_buffer("other", torch.ones(1))
    state.restore()
    assert (layer.late, layer.length, layer.note) == (None, 5, None)
    assert not hasattr(layer, "other")
    assert not hasattr(layer, "steps")


def test_a_buffer_that_two_modules_hold_stays_one(model):
    model["first"].count = model["second"].count
    state = ModuleState(model)
    model["first"].count = torch.tensor(8)
    state.restore()
    assert model["first"].count is model["second"].count


def test_parameters_modes_other_attributes_and_values_that_will_be_overwritten_stay(model):
    state, layer = ModuleState(model, {"first.count"}), model["first"]
    with torch.no_grad():
        layer.weight += 1
        layer.count += 1
    layer.seen.append(1)
    model.eval()
    state.restore()
    assert layer.weight.tolist() == [2.0, 2.0]
    assert layer.count == 4
    assert layer.seen == [1]
    assert not layer.training


def test_models_that_print_alike_are_told_apart(model):
    one, other = (nn.MultiheadAttention(8, heads) for heads in (1, 8))
    assert str(one) == str(other)
    assert describe_modules(one) != describe_modules(other)
    frozen = copy.deepcopy(model)
    assert describe_modules(frozen.eval()) == describe_modules(model)
    frozen["first"].weight.requires_grad_(False)
    assert describe_modules(frozen) != describe_modules(model)
    model["second"].weight = nn.Parameter(torch.ones(3))
    assert describe_modules(model) != describe_modules(copy.deepcopy(frozen).requires_grad_(True))
