"""A step in the gradients' own memory moves a model to the same bits as PyTorch's."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim import SGD, AdamW

from fedhealth.training import eager_optimizers
from fedhealth.training.in_place_step import _PIECE, take_step

MOMENTUM, DECAY = st.sampled_from([0.0, 0.5, 0.9]), st.sampled_from([0.0, 1e-4, 0.3])


def make_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(7, 33), nn.Tanh(), nn.Linear(33, 2))


def train(make, step, batches):
    """Return the arrays of a model and its optimizer's state after some steps; one parameter has no gradient."""
    model = make_model()
    model.register_parameter("unused", nn.Parameter(torch.ones(3)))
    optimizer = make(model.parameters())
    for batch in batches:
        optimizer.zero_grad(set_to_none=True)
        model(batch).square().mean().backward()
        step(optimizer)
    return model.state_dict(), optimizer.state_dict()


def assert_same(make, steps=3):
    torch.manual_seed(1)
    batches = [torch.randn(5, 7) for _ in range(steps)]
    (arrays, state), (expected, expected_state) = (train(make, f, batches) for f in (take_step, lambda o: o.step()))
    for name, array in expected.items():
        assert torch.equal(arrays[name], array)
    assert state["param_groups"] == expected_state["param_groups"]
    assert state["state"].keys() == expected_state["state"].keys()
    for number, values in expected_state["state"].items():
        for name, value in values.items():
            assert torch.equal(torch.as_tensor(state["state"][number][name]), torch.as_tensor(value))


@settings(deadline=None)  # the first optimizer of a process imports much
@given(st.floats(1e-4, 0.5), MOMENTUM, DECAY, st.sampled_from([0.0, 0.25]), st.booleans(), st.booleans())
def test_any_sgd_moves_to_the_same_bits(lr, momentum, decay, dampening, nesterov, maximize):
    nesterov = nesterov and momentum > 0
    options = {"momentum": momentum, "dampening": 0.0 if nesterov else dampening, "weight_decay": decay}
    assert_same(lambda p: SGD(p, lr=lr, nesterov=nesterov, maximize=maximize, **options))


@pytest.mark.parametrize("shape", [(_PIECE - 1,), (3, _PIECE + 7), (0,), ()])
@pytest.mark.parametrize("is_turned", [False, True])
def test_any_number_of_pieces_gives_the_same_bits(shape, is_turned):
    def draw():
        values = torch.randn(shape)
        return values.T.contiguous().T if is_turned and len(shape) == 2 else values

    def run(step):
        torch.manual_seed(0)
        parameter = nn.Parameter(torch.randn(shape))
        optimizer = SGD([parameter], lr=0.1, momentum=0.9, weight_decay=0.01)
        for _ in range(3):
            parameter.grad = draw()
            step(optimizer)
        return parameter.detach(), optimizer.state[parameter]["momentum_buffer"]

    for found, expected in zip(run(take_step), run(lambda optimizer: optimizer.step()), strict=True):
        assert torch.equal(found, expected)


def test_another_optimizer_takes_its_own_step():
    assert_same(lambda p: AdamW(p, lr=0.01))


def test_groups_have_their_own_settings():
    def make(parameters):
        first, *others = parameters
        groups = [{"params": [first], "lr": 0.5}, {"params": others, "weight_decay": 0.1}]
        return SGD(groups, lr=0.01, momentum=0.9)

    assert_same(make)


@pytest.mark.parametrize("make", [SGD, eager_optimizers.EagerSGD])
def test_nothing_of_the_gradients_size_is_made(make):
    model = make_model()
    optimizer = make(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    model(torch.ones(1, 7)).sum().backward()
    first = model[0].weight
    place = first.grad.data_ptr()
    take_step(optimizer)
    assert optimizer.state[first]["momentum_buffer"].data_ptr() == place
    assert first.grad is None  # the next backward pass cannot add to the momentum


def test_hooks_of_a_step_are_called():
    model, seen = make_model(), []
    optimizer = SGD(model.parameters(), lr=0.1)
    optimizer.register_step_post_hook(lambda *_: seen.append(1))
    model(torch.ones(1, 7)).sum().backward()
    take_step(optimizer)
    assert seen == [1]


@pytest.mark.parametrize("kind", [torch.sparse_coo, torch.strided])
def test_a_sparse_gradient_is_left_to_the_optimizer(kind):
    def run(step):
        torch.manual_seed(0)
        table = nn.Embedding(9, 4, sparse=kind == torch.sparse_coo)
        optimizer = SGD(table.parameters(), lr=0.1, momentum=0.9)
        for _ in range(2):
            optimizer.zero_grad(set_to_none=True)
            table(torch.tensor([1, 1, 5])).square().sum().backward()
            assert table.weight.grad.layout == kind
            step(optimizer)
        return copy.deepcopy(table.weight.detach())

    assert torch.equal(run(take_step), run(lambda optimizer: optimizer.step()))
