"""What the modules of a model hold beside parameters, to be put back: buffers, and plain values in attributes."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import nn

_OWN_OF_TORCH = frozenset(vars(nn.Module()))
_PLAIN = (bool, int, float, str, bytes, type(None))


def describe_modules(model: nn.Module) -> str:
    """Return what tells models apart: each module's class and plain values, and its arrays, but not their values.

    The text that PyTorch prints lacks much of it (the number of heads, what is trained).
    """
    return repr(
        [
            (prefix, type(module), _list_plain_values(module), _list_arrays(module))
            for prefix, module in model.named_modules()
        ]
    )


class ModuleState:
    """The state of a model's modules as it is now.

    A module that gets its buffers back gets the numbers that describe them back, too (how long a cache is). Attributes
    that hold anything else (tensors, lists, generators) stay as they are, and so do parameters.

    Args:
        model: whose state is kept.
        overwritten: names of buffers whose values need not be kept.

    """

    def __init__(self, model: nn.Module, overwritten: Collection[str] = ()) -> None:
        self._kept = [_KeptModule(prefix, module, overwritten) for prefix, module in model.named_modules()]

    def restore(self) -> None:
        """Put back what was changed or replaced, and remove what was not there."""
        with torch.no_grad():
            for kept in self._kept:
                kept.restore()


class _KeptModule:
    """A module's own buffers and plain values, without those of the modules in it."""

    def __init__(self, prefix: str, module: nn.Module, overwritten: Collection[str]) -> None:
        self._module, self._buffers, self._values = module, dict(module._buffers), _list_plain_values(module)
        self._copies = {
            name: buffer.clone()
            for name, buffer in module._buffers.items()
            if buffer is not None and f"{prefix}.{name}".lstrip(".") not in overwritten
        }

    def restore(self) -> None:
        """Put everything back; a buffer is the same tensor again, because other modules may hold it, too."""
        self._module._buffers.clear()
        self._module._buffers.update(self._buffers)
        for name, copy in self._copies.items():
            self._module._buffers[name].copy_(copy)  # type: ignore[union-attr]
        attributes = vars(self._module)
        for name in _list_plain_values(self._module).keys() - self._values.keys():
            del attributes[name]
        attributes.update(self._values)


def _list_plain_values(module: nn.Module) -> dict[str, object]:
    found = vars(module).items()
    return {name: value for name, value in found if isinstance(value, _PLAIN) and name not in _OWN_OF_TORCH}


def _list_arrays(module: nn.Module) -> list[tuple[object, ...]]:
    own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
    return [(name, tuple(array.shape), array.dtype, array.requires_grad) for name, array in own]
