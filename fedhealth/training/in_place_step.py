"""One step of an optimizer without new arrays of the model's size.

PyTorch's SGD copies every gradient for weight decay, and once more to begin the momentum. Nobody reads the gradients
after the step, so both are done in them: the same operations on the same values, hence the same bits. Large parameters
are moved in pieces that stay in the cache; the many small ones of a network take one call together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer

from fedhealth.training import eager_optimizers

_PLAIN = (SGD, eager_optimizers.EagerSGD)  # no subclasses, which may compute something else
_PIECE = 2**16  # values
_VARIANTS = ("maximize", "nesterov", "differentiable", "foreach", "fused")  # that PyTorch computes in other ways


def take_step(optimizer: Optimizer) -> None:
    """Take one step; it may change the gradients, or take them for the optimizer's state."""
    if not _is_plain_sgd(optimizer):
        optimizer.step()
        return
    with torch.no_grad():
        for group in optimizer.param_groups:
            _move_group(group, optimizer.state)


def _is_plain_sgd(optimizer: Optimizer) -> bool:
    """Return whether PyTorch's SGD would go through dense parameters on a CPU one by one, and nobody watches."""
    hooks = optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks
    if type(optimizer) not in _PLAIN or any(hooks):
        return False
    groups = optimizer.param_groups
    gradients = [parameter.grad for group in groups for parameter in group["params"] if parameter.grad is not None]
    return not any(group[name] for group in groups for name in _VARIANTS) and all(map(_is_dense, gradients))


def _is_dense(gradient: Tensor) -> bool:
    return gradient.device.type == "cpu" and gradient.layout == torch.strided and not gradient.is_complex()


def _move_group(group: dict[str, Any], states: Mapping[Tensor, dict[str, Any]]) -> None:
    """Move small parameters together, because each call takes microseconds, and large ones one by one."""
    together = []
    for parameter in group["params"]:
        if parameter.grad is None:
            continue
        is_begun = not group["momentum"] or states[parameter].get("momentum_buffer") is not None
        if is_begun and parameter.numel() <= _PIECE:
            together.append(parameter)
        else:
            _move_parameter(parameter, parameter.grad, group, states)
    if together:
        _move_together(together, group, states)


def _move_together(parameters: list[Tensor], group: dict[str, Any], states: Mapping[Tensor, dict[str, Any]]) -> None:
    """Move parameters that have a momentum, if there is one, by one call for each operation."""
    sums = directions = [cast(Tensor, parameter.grad) for parameter in parameters]
    if group["weight_decay"]:
        torch._foreach_add_(directions, parameters, alpha=group["weight_decay"])
    if group["momentum"]:
        sums = [states[parameter]["momentum_buffer"] for parameter in parameters]
        torch._foreach_mul_(sums, group["momentum"])
        torch._foreach_add_(sums, directions, alpha=1 - group["dampening"])
    torch._foreach_add_(parameters, sums, alpha=-group["lr"])


def _move_parameter(
    parameter: Tensor, gradient: Tensor, group: dict[str, Any], states: Mapping[Tensor, dict[str, Any]]
) -> None:
    """Move a parameter; at the first step its gradient is the momentum, which the parameter then lets go."""
    state = states[parameter] if group["momentum"] else {}
    momentum = state.get("momentum_buffer")
    for piece, direction, sums in _split(parameter, gradient, gradient if momentum is None else momentum):
        if group["weight_decay"]:
            direction.add_(piece, alpha=group["weight_decay"])
        if momentum is not None:
            sums.mul_(group["momentum"]).add_(direction, alpha=1 - group["dampening"])
        piece.add_(sums, alpha=-group["lr"])
    if group["momentum"] and momentum is None:
        state["momentum_buffer"], parameter.grad = gradient, None


def _split(*tensors: Tensor) -> Iterable[tuple[Tensor, ...]]:
    """Return tensors of one shape in pieces that stay in the cache; whole where their values lie in other orders."""
    if not all(tensor.is_contiguous() for tensor in tensors):
        return [tensors]
    return zip(*(torch.split(tensor.view(-1), _PIECE) for tensor in tensors), strict=True)
