"""How many bytes tensors take at a time: counted, so that it depends on the shapes and not on the machine."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class PeakCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Count the bytes of the tensors that operations create while it is entered, also in backward passes.

    What a kernel allocates for itself while it runs is not seen.

    Attributes:
        peak: the most bytes that were alive at a time.

    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._alive = 0
        self._known: dict[int, int] = {}

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run the operation and count the storages of its outputs."""
        given = {id(each.untyped_storage()) for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)}
        out = func(*args, **(kwargs or {}))
        for each in tree_leaves(out):
            if isinstance(each, Tensor) and id(each.untyped_storage()) not in given:
                self._add(each.untyped_storage())
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        """Count a storage until nothing holds it; views and in-place operations return one that is known."""
        key = id(storage)  # the storage's Python object lives as long as the storage
        if key in self._known:
            return
        self._known[key] = storage.nbytes()
        self._alive += self._known[key]
        self.peak = max(self.peak, self._alive)
        weakref.finalize(storage, self._remove, key).atexit = False

    def _remove(self, key: int) -> None:
        self._alive -= self._known.pop(key)
