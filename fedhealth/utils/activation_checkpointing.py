"""Activation checkpointing: the activations inside a block are dropped and computed again in the backward pass.

Chen et al., "Training deep nets with sublinear memory cost", 2016. A block's further forward passes begin with the
random generators and the buffers (running statistics, spectral norms) of the first, and leave no trace in them, so
results are those of training without it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

_Contexts = tuple[AbstractContextManager[object], AbstractContextManager[object]]


def find_blocks(model: nn.Module) -> list[nn.Module]:
    """Return the repeated blocks of a network, such as residual blocks or transformer layers, in order of their names.

    A block is an element of a list or sequence that consists of several layers. A list of such blocks, or what holds
    one, is a stage: its elements are the blocks.
    """
    blocks: list[nn.Module] = []
    for child in model.children():
        is_element = isinstance(model, nn.Sequential | nn.ModuleList) and not _is_layer(child)
        blocks += [child] if is_element and not _is_stage(child) else find_blocks(child)
    return blocks


def _is_layer(module: nn.Module) -> bool:
    return next(module.children(), None) is None


def _is_stage(module: nn.Module) -> bool:
    """Return whether a module is a sequence of blocks, or holds a list of them."""
    if isinstance(module, nn.Sequential):
        return not any(_is_layer(child) for child in module)
    lists = (each for each in module.modules() if isinstance(each, nn.ModuleList))
    return any(not _is_layer(child) for each in lists for child in each)


@contextmanager
def checkpoint_blocks(blocks: Iterable[nn.Module]) -> Iterator[None]:
    """Checkpoint the activations of these blocks, if they are not checkpointed yet."""
    wrapped = [block for block in blocks if not has_checkpointed_blocks(block)]
    for block in wrapped:
        object.__setattr__(block, "forward", _CheckpointedForward(block))
    try:
        yield
    finally:
        for block in wrapped:
            object.__delattr__(block, "forward")


def has_checkpointed_blocks(model: nn.Module) -> bool:
    """Return whether the activations of some block of the model are checkpointed."""
    return any(isinstance(vars(module).get("forward"), _CheckpointedForward) for module in model.modules())


class _CheckpointedForward:
    """A block's forward pass that keeps its inputs only."""

    def __init__(self, block: nn.Module) -> None:
        self._block, self._forward = block, block.forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return checkpoint(self._forward, *args, use_reentrant=False, context_fn=self._make_contexts, **kwargs)

    def _make_contexts(self) -> _Contexts:
        """Return the contexts of the first and of every further forward pass."""
        return nullcontext(), _FurtherPass(self._block)


class _FurtherPass:
    """While entered, a block's buffers, and the generators, are as they were when this was made; then as before.

    All buffers are copied: batch normalization changes its own without a trace in their versions.
    """

    def __init__(self, block: nn.Module) -> None:
        self._generators: tuple[Any, Any] = random.getstate(), np.random.get_state()  # torch keeps its own
        self._buffers = {module: _copy_buffers(module) for module in block.modules() if module._buffers}
        self._leave: list[Callable[[], object]] = []

    def __enter__(self) -> None:
        self._leave += [
            partial(random.setstate, random.getstate()),
            partial(np.random.set_state, np.random.get_state()),
        ]
        python, numpy = self._generators
        random.setstate(python)
        np.random.set_state(numpy)
        for module, values in self._buffers.items():
            self._leave.append(partial(module._buffers.update, dict(module._buffers)))
            module._buffers.update({name: value.clone() for name, value in values.items()})

    def __exit__(self, *fault: object) -> None:
        while self._leave:
            self._leave.pop()()


def _copy_buffers(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module._buffers.items() if value is not None}
