"""What hooks see of the trainable layers: each one's input, and the gradient of its output.

The hooks are on tensors, not on modules, so in-place operations after a layer (torchvision's ReLUs) are allowed. The
records belong to one call, so no stale record of an earlier step can remain.

An input is held as autograd holds what it saves. So it is freed when the backward pass has used it, and inside a
checkpointed block it is dropped and computed again together with the block's activations.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fedhealth.errors import PrivacyError
from fedhealth.privacy.engines.base import PatientIndex, widen_half
from fedhealth.privacy.engines.layer_gradients import GradientPart
from fedhealth.privacy.engines.layer_rules import LayerRule

TakePart = Callable[[nn.Parameter, GradientPart], None]
"""Called in a backward pass with a parameter and a part of its gradient, once for each use of the parameter."""


class LayerRecords:
    """The records of one forward pass, which one or more backward passes read.

    Args:
        patients: of the batch.
        trainable: the parameters whose gradients are wanted.

    Attributes:
        patients: of the batch.
        uses: how many parts each parameter's gradient has, if all of them reach the loss.

    """

    def __init__(self, patients: PatientIndex, trainable: set[nn.Parameter]) -> None:
        self.patients, self._rows = patients, len(patients.patient_of_row)
        self._trainable = trainable
        self.uses: dict[nn.Parameter, int] = {}
        self._take: TakePart | None = None
        self._is_last = True

    def run_backward(self, losses: Tensor, take: TakePart, is_last: bool) -> None:
        """Run a backward pass of the sum of the losses, and free what is recorded if it is the last one."""
        self._take, self._is_last = take, is_last
        if losses.requires_grad:
            losses.sum().backward(retain_graph=not is_last)  # type: ignore[no-untyped-call]

    def on_forward(
        self, name: str, rule: LayerRule, module: nn.Module, args: tuple[Any, ...], out: Tensor
    ) -> Tensor | None:
        """Record the layer's input and register a hook for the gradient of its output."""
        if not torch.is_grad_enabled():
            return None
        if len(args) != 1:
            raise PrivacyError(f"layer {name} was not called with one positional input", "Call it as layer(x).")
        use = _LayerUse(name, rule, module, args[0].detach())
        anchored = None if out.requires_grad else _attach_anchor(out)
        watched = out if anchored is None else anchored
        if self._take is not None:  # a checkpointed block is computed again; its first pass has the hooks
            watched.register_hook(partial(_refuse_gradient, name))  # type: ignore[no-untyped-call]
            return anchored
        own = {n: p for n, p in module.named_parameters(recurse=False) if p in self._trainable}
        for parameter in own.values():
            self.uses[parameter] = self.uses.get(parameter, 0) + 1
        watched.register_hook(partial(self._on_gradient, use, own))  # type: ignore[no-untyped-call]
        return anchored

    def _on_gradient(self, use: _LayerUse, own: dict[str, nn.Parameter], gradient: Tensor) -> None:
        layer_input = use.get_input(self._is_last)
        if layer_input.shape[0] != self._rows or gradient.shape[0] != self._rows:
            raise PrivacyError(
                f"layer {use.name} saw {layer_input.shape[0]} rows of a batch of {self._rows}",
                "Call it on the whole batch, with the row as the first dimension, and mask afterwards.",
            )
        parts = use.rule(use.module, widen_half(layer_input), widen_half(gradient.detach()))
        del layer_input
        for attribute, parameter in own.items():
            assert self._take is not None  # noqa: S101 - gradients come in a backward pass
            self._take(parameter, parts.pop(attribute))


class _LayerUse:
    """One call of a trainable layer, with its input."""

    def __init__(self, name: str, rule: LayerRule, module: nn.Module, layer_input: Tensor) -> None:
        self.name, self.rule, self.module = name, rule, module
        self._saved: Any = _SavedInput.apply(torch.empty(0, requires_grad=True), layer_input).grad_fn

    def get_input(self, is_last: bool) -> Tensor:
        """Return the input, and free it after the last use.

        Raises:
            PrivacyError: it was changed in place after the layer had read it.

        """
        saved = self._saved
        if is_last:
            self._saved = None
        try:
            value, version = saved.saved_tensors
        except RuntimeError as fault:
            if "inplace operation" not in str(fault):
                raise
            raise self._explain_change() from fault
        # autograd does not look inside of a checkpointed block; a number is read from NumPy without any device
        if value._version != int(version.numpy()):
            raise self._explain_change()
        return value

    def _explain_change(self) -> PrivacyError:
        return PrivacyError(f"the input of layer {self.name} was changed in place", "Use the out-of-place operation.")


class _SavedInput(torch.autograd.Function):
    """A node of the graph that no gradient reaches: it only saves a layer's input, as the layer itself does.

    Beside it is the input's version, of the same forward pass: a checkpointed block may read a copy of a buffer.
    """

    @staticmethod
    def forward(ctx: Any, key: Tensor, layer_input: Tensor) -> Tensor:
        ctx.save_for_backward(layer_input, torch.tensor(layer_input._version))
        return key.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None]:
        return None, None


class _Anchor(torch.autograd.Function):
    """Identity that adds a tensor to the graph in place, so that later in-place operations are still allowed."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, anchor: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        return x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None]:
        return None, None


def _attach_anchor(out: Tensor) -> Tensor:
    anchored: Tensor = _Anchor.apply(out.clone() if out._is_view() else out, out.new_zeros((), requires_grad=True))
    return anchored


def _refuse_gradient(name: str, gradient: Tensor) -> None:
    """Refuse a checkpoint of the old kind: its gradients flow through the second forward pass alone."""
    raise PrivacyError(
        f"layer {name} ran again during backward and got its gradient there",
        "Checkpoint activations with use_reentrant=False, or set training.activation_checkpointing=true instead.",
    )


def expand_shared_ids(rows: int, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """Expand ids shared by all rows (BERT's positions, [1, L]) to one per row, so that each has its own gradient."""
    ids = args[0]
    return (ids.expand(rows, *ids.shape[1:]), *args[1:]) if ids.shape[0] == 1 and rows > 1 else None
