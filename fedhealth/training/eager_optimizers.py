"""torch's usual optimizers without the wrappers that keep `torch.compile` away from their methods.

The wrappers import torch's compiler at their first call: a second and a half of processor time and 900 modules, in
every process that trains. No optimizer is compiled here. What the wrappers call is called itself; the arithmetic, the
hooks and the state are torch's.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.optim import Optimizer

Step = Callable[..., float | None]


def _take_step(step: Step) -> Step:
    """Return the function inside a wrapped `step`, with gradients off as its wrapper has them."""
    inner = inspect.unwrap(step)

    def take(self: Optimizer, closure: Callable[[], float] | None = None) -> float | None:
        with torch.set_grad_enabled(bool(self.defaults["differentiable"])):
            return inner(self, closure)

    return take


class _Eager(Optimizer):
    """The methods that all optimizers share."""

    add_param_group = inspect.unwrap(Optimizer.add_param_group)
    load_state_dict = inspect.unwrap(Optimizer.load_state_dict)
    state_dict = inspect.unwrap(Optimizer.state_dict)
    zero_grad = inspect.unwrap(Optimizer.zero_grad)


class EagerSGD(_Eager, torch.optim.SGD):
    """`torch.optim.SGD`."""

    step: Any = _take_step(torch.optim.SGD.step)


class EagerAdam(_Eager, torch.optim.Adam):
    """`torch.optim.Adam`."""

    step: Any = _take_step(torch.optim.Adam.step)


class EagerAdamW(_Eager, torch.optim.AdamW):
    """`torch.optim.AdamW`."""

    step: Any = _take_step(torch.optim.AdamW.step)


_EAGER: dict[Any, type[Optimizer]] = {each.__bases__[1]: each for each in (EagerSGD, EagerAdam, EagerAdamW)}


def make_eager(make: Callable[..., Optimizer]) -> Callable[..., Optimizer]:
    """Return a partial of a class here for a partial of the class of torch that it stands for; any other as it is."""
    if not isinstance(make, partial) or make.func not in _EAGER:
        return make
    return partial(_EAGER[make.func], *make.args, **make.keywords)
