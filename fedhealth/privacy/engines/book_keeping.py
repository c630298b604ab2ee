"""The record-keeping engine: per-patient clipping with one backward pass (Bu et al., ICML 2023).

One ordinary forward and backward pass records every trainable layer's input and the gradient of its output; the
trainable weights themselves get no gradient. The records give the patients' norms, the norms give the clip factors, and
both together give the clipped sum. No per-sample gradient of a large layer is ever stored.

The hooks are on tensors, not on modules, so in-place operations after a layer (torchvision's ReLUs) are allowed. The
records belong to one call, so no stale record of an earlier step can remain.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fedhealth.errors import PrivacyError
from fedhealth.privacy.engines.base import (
    Batch,
    ClippedBatch,
    LossFn,
    PatientIndex,
    add_to_summed_grad,
    check_row_independence,
    compute_clip_factors,
    disable_tf32,
    get_trainable_parameters,
    reduce_row_losses,
    widen_half,
)
from fedhealth.privacy.engines.ghost_norms import UnclippedGradient, compute_squared_norms
from fedhealth.privacy.engines.layer_gradients import GradientPart
from fedhealth.privacy.engines.layer_rules import LayerRule, find_layer_rule
from fedhealth.privacy.mechanisms.clipping import Clipping


class BookKeepingEngine:
    """Gradient engine with one backward pass; see `fedhealth.privacy.engines.base.GradientEngine`.

    Every layer with trainable parameters must be called with the rows of the whole batch as the first dimension.

    Args:
        model: Linear, Conv2d, Embedding, LayerNorm, RMSNorm and GroupNorm may be trainable; also reused or tied.
        loss_fn: (model, batch) -> losses [B] or [B, ...].
        clipping: the rule that bounds a patient's contribution.

    Raises:
        PrivacyError: a trainable layer has no rule or mixes rows; the message names it.

    """

    def __init__(self, model: nn.Module, loss_fn: LossFn, clipping: Clipping) -> None:
        check_row_independence(model)
        self._model, self._loss_fn, self._clipping = model, loss_fn, clipping
        self._layers = _find_trainable_layers(model)
        self._parameters = get_trainable_parameters(model)
        groups = clipping.assign_groups(self._parameters)
        self._group_of = dict(zip(self._parameters.values(), groups, strict=True))

    def accumulate(self, batch: Batch, patients: Sequence[int]) -> ClippedBatch:
        """Add the batch's clipped sum to `p.summed_grad`; an empty batch adds nothing and skips the model."""
        self._check_model_unchanged()
        device = next(iter(self._parameters.values())).device
        if not len(patients):
            return ClippedBatch(torch.zeros(0), torch.zeros(0))
        record = _PassRecord(PatientIndex(patients, device))
        with self._record_pass(record):
            losses = reduce_row_losses(self._loss_fn(self._model, batch), len(patients))
            record.forward_done = True
            if losses.requires_grad:
                losses.sum().backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            record.finish_parameters()
            squared, losses = self._compute_norms(record), losses.detach()
            factors, norms = compute_clip_factors(self._clipping, squared, record.patients.sum_over_rows(losses))
            with disable_tf32():
                self._add_clipped_sums(record, factors)
        return ClippedBatch(losses, norms)

    def _check_model_unchanged(self) -> None:
        if get_trainable_parameters(self._model).keys() != self._parameters.keys():
            raise PrivacyError(
                "the set of trainable parameters changed after the engine was made",
                "Freeze and unfreeze first, then build the engine.",
            )
        check_row_independence(self._model)
        if torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
            raise PrivacyError("autocast is on", "Switch it on inside the loss, for the forward pass only.")

    @contextmanager
    def _record_pass(self, record: "_PassRecord") -> Iterator[None]:
        with ExitStack() as stack:
            for name, module, rule in self._layers:
                if isinstance(module, nn.Embedding):
                    pre = module.register_forward_pre_hook(
                        partial(expand_shared_ids, len(record.patients.patient_of_row))
                    )
                    stack.callback(pre.remove)
                hook = module.register_forward_hook(partial(record.on_forward, name, rule))
                stack.callback(hook.remove)
            for parameter in self._parameters.values():
                parameter.requires_grad_(False)
                stack.callback(parameter.requires_grad_, True)
            record.trainable = set(self._parameters.values())
            yield

    def _compute_norms(self, record: "_PassRecord") -> Tensor:
        reference = next(iter(self._parameters.values()))
        total = reference.new_zeros((record.patients.count, self._clipping.group_count))
        for parameter, (squared, _) in record.gradients.items():
            total[:, self._group_of[parameter]] += squared
        return total

    def _add_clipped_sums(self, record: "_PassRecord", factors: Tensor) -> None:
        for parameter in list(record.gradients):
            _, forms = record.gradients.pop(parameter)
            column = factors[:, self._group_of[parameter]]
            for form in forms:
                add_to_summed_grad(parameter, form.weighted_sum(column))


class _PassRecord:
    """What one forward and backward pass records: layer inputs, output gradients and the norms computed from them."""

    def __init__(self, patients: PatientIndex) -> None:
        self.patients, self.rows = patients, len(patients.patient_of_row)
        self.trainable: set[nn.Parameter] = set()
        self.gradients: dict[nn.Parameter, tuple[Tensor, list[UnclippedGradient]]] = {}
        self.forward_done = False
        self._uses: dict[nn.Parameter, int] = {}
        self._parts: dict[nn.Parameter, list[GradientPart]] = {}

    def on_forward(
        self, name: str, rule: LayerRule, module: nn.Module, args: tuple[Any, ...], out: Tensor
    ) -> Tensor | None:
        """Record the layer's input and register a hook for the gradient of its output."""
        if not torch.is_grad_enabled():
            return None
        if self.forward_done:
            raise PrivacyError(
                f"layer {name} ran again during backward", "Switch activation checkpointing off under privacy."
            )
        if len(args) != 1:
            raise PrivacyError(f"layer {name} was not called with one positional input", "Call it as layer(x).")
        own_parameters = {n: p for n, p in module.named_parameters(recurse=False) if p in self.trainable}
        for parameter in own_parameters.values():
            self._uses[parameter] = self._uses.get(parameter, 0) + 1
        layer_input = args[0].detach()
        anchored = None if out.requires_grad else _attach_anchor(out)
        watched = out if anchored is None else anchored
        watched.register_hook(  # type: ignore[no-untyped-call]
            partial(self._on_gradient, name, rule, module, own_parameters, layer_input, layer_input._version)
        )
        return anchored

    def _on_gradient(
        self,
        name: str,
        rule: LayerRule,
        module: nn.Module,
        own_parameters: dict[str, nn.Parameter],
        layer_input: Tensor,
        version: int,
        gradient: Tensor,
    ) -> None:
        if layer_input._version != version:
            raise PrivacyError(f"the input of layer {name} was changed in place", "Use the out-of-place operation.")
        rows = self.rows
        if layer_input.shape[0] != rows or gradient.shape[0] != rows:
            raise PrivacyError(
                f"layer {name} saw {layer_input.shape[0]} rows of a batch of {rows}",
                "Call it on the whole batch, with the row as the first dimension, and mask afterwards.",
            )
        parts = rule(module, widen_half(layer_input), widen_half(gradient.detach()))
        for attribute, parameter in own_parameters.items():
            self._parts.setdefault(parameter, []).append(parts[attribute])
            self._uses[parameter] -= 1
            if self._uses[parameter] == 0:
                self._finish_parameter(parameter)

    def finish_parameters(self) -> None:
        """Compute the norms of parameters that have a use which did not reach the loss."""
        for parameter in list(self._parts):
            self._finish_parameter(parameter)

    def _finish_parameter(self, parameter: nn.Parameter) -> None:
        self.gradients[parameter] = compute_squared_norms(self._parts.pop(parameter), self.patients)


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


def expand_shared_ids(rows: int, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """Expand ids shared by all rows (BERT's positions, [1, L]) to one per row, so that each has its own gradient."""
    ids = args[0]
    return (ids.expand(rows, *ids.shape[1:]), *args[1:]) if ids.shape[0] == 1 and rows > 1 else None


def _find_trainable_layers(model: nn.Module) -> list[tuple[str, nn.Module, LayerRule]]:
    found = []
    for name, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention) and any(p.requires_grad for p in module.parameters()):
            raise PrivacyError(
                f"layer {name} (MultiheadAttention) keeps its projections in bare parameters",
                "Use attention built from nn.Linear (transformers' models are) or freeze it.",
            )
        if any(p.requires_grad for p in module.parameters(recurse=False)):
            found.append((name, module, find_layer_rule(name, module)))
    if not found:
        raise PrivacyError("the model has no trainable parameters", "Unfreeze the layers to train.")
    return found
