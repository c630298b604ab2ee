"""The optimizers without torch's compiler do what torch's do."""

import subprocess
import sys
from functools import partial

import pytest
import torch
from torch import nn

from fedhealth.training import eager_optimizers
from fedhealth.training.eager_optimizers import make_eager

CODE = """
import sys, torch
from functools import partial
from fedhealth.training.eager_optimizers import make_eager

weight = torch.nn.Parameter(torch.ones(3))
optimizer = make_eager(partial(torch.optim.{name}, lr=0.1))([weight])
optimizer.zero_grad()
(weight**2).sum().backward()
optimizer.step()
optimizer.load_state_dict(optimizer.state_dict())
print("torch._dynamo" in sys.modules, bool((weight < 1).all()))
"""


def train(make):
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    optimizer = make([{"params": [model.weight]}, {"params": [model.bias], "lr": 0.01}])
    for _ in range(4):
        optimizer.zero_grad()
        model(torch.randn(5, 4)).square().sum().backward()
        optimizer.step()
    return model, optimizer


@pytest.mark.parametrize(
    "make",
    [
        partial(torch.optim.SGD, lr=0.1),
        partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
        partial(torch.optim.Adam, lr=0.1),
        partial(torch.optim.AdamW, lr=0.1, amsgrad=True),
    ],
)
def test_steps_and_state_are_those_of_torch_bit_for_bit(make):
    (expected, theirs), (model, ours) = train(make), train(make_eager(make))
    assert type(ours).__module__ == eager_optimizers.__name__
    assert torch.equal(model.weight, expected.weight)
    assert torch.equal(model.bias, expected.bias)
    assert repr(ours) == f"Eager{theirs!r}"
    states = zip(ours.state_dict()["state"].values(), theirs.state_dict()["state"].values(), strict=True)
    assert all(
        torch.equal(mine[name], value) for mine, its in states for name, value in its.items() if value is not None
    )


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_an_optimizer_does_not_import_the_compiler(name):
    done = subprocess.run([sys.executable, "-c", CODE.format(name=name)], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["False", "True"]


def test_hooks_and_closures_work():
    weight, called = nn.Parameter(torch.ones(2)), []
    optimizer = eager_optimizers.EagerSGD([weight], lr=0.1)
    optimizer.register_step_post_hook(lambda *_: called.append("hook"))

    def compute_loss():
        optimizer.zero_grad()
        loss = weight.sum()
        loss.backward()
        return loss

    assert optimizer.step(compute_loss) == 2
    assert called == ["hook"]
    assert weight.tolist() == pytest.approx([0.9, 0.9])


def test_another_optimizer_is_left_as_it_is():
    class Own(torch.optim.SGD):
        pass

    for make in (
        partial(Own, lr=0.1),
        partial(torch.optim.RMSprop, lr=0.1),
        lambda parameters: Own(parameters, lr=0.1),
    ):
        assert make_eager(make) is make
