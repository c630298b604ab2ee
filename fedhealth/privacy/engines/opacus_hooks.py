"""The Opacus engine: Opacus's per-sample gradient rules, attached without wrapping the model.

Differences from Opacus: the gradients of the outputs come from tensor hooks, because its full backward hooks fail with
in-place operations after a layer (torchvision's ReLUs). Tensors are made row-major, because its rules are wrong for
channels_last. Padding tokens get no gradient (its rule gives them one). Shared position ids are expanded to one per
row. Gradients left over from a step are cleared.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from opacus.grad_sample import GradSampleHooks
from torch import Tensor, nn

from fedhealth.errors import PrivacyError
from fedhealth.privacy.engines.base import (
    ORACLE,
    Batch,
    ClippedBatch,
    LossFn,
    PatientIndex,
    add_to_summed_grad,
    check_row_independence,
    compute_clip_factors,
    get_trainable_parameters,
    reduce_row_losses,
    widen_half,
    zero_non_finite,
)
from fedhealth.privacy.engines.layer_records import expand_shared_ids
from fedhealth.privacy.mechanisms.clipping import Clipping


class _TensorHooks(GradSampleHooks):  # type: ignore[misc]
    """Opacus's hooks with the gradient taken from the output tensor."""

    def add_hooks(
        self, *, loss_reduction: str = "sum", batch_first: bool = True, force_functorch: bool = False
    ) -> None:
        """Attach to every layer with trainable parameters."""
        self._module.autograd_grad_sample_hooks = self.autograd_grad_sample_hooks = []
        for name, module in self._module.named_modules():
            if not any(p.requires_grad for p in module.parameters(recurse=False)):
                continue
            if type(module) not in self.GRAD_SAMPLERS:
                raise PrivacyError(
                    f"layer {name} ({type(module).__name__}) has no per-sample gradient rule in Opacus",
                    f"Freeze it or use {ORACLE}.",
                )
            self.autograd_grad_sample_hooks.append(module.register_forward_hook(self._on_forward))
        self.enable_hooks()

    def _on_forward(self, module: nn.Module, args: tuple[Any, ...], out: Tensor) -> None:
        if not self.hooks_enabled or not torch.is_grad_enabled():
            return
        out.register_hook(  # type: ignore[no-untyped-call]
            partial(self._on_gradient, module, _to_row_major(args[0]))
        )

    def _on_gradient(self, module: nn.Module, given: Tensor, gradient: Tensor) -> None:
        rule, gradient = self.GRAD_SAMPLERS[type(module)], _to_row_major(gradient)
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            gradient = gradient * (given != module.padding_idx)[..., None]
        for parameter, value in rule(module, [given], gradient).items():
            if parameter.requires_grad:
                before = getattr(parameter, "grad_sample", None)
                parameter.grad_sample = value if before is None else before + value


def _to_row_major(x: Tensor) -> Tensor:
    """Copy with row-major strides, also for dimensions of size 1: Opacus's unfold reads the strides."""
    return widen_half(x.detach().clone(memory_format=torch.contiguous_format))


class OpacusEngine:
    """Gradient engine on Opacus's per-sample gradients; see `fedhealth.privacy.engines.base.GradientEngine`.

    Args:
        model: layers for which Opacus has a rule may be trainable.
        loss_fn: (model, batch) -> losses [B] or [B, ...].
        clipping: the rule that bounds a patient's contribution.

    """

    def __init__(self, model: nn.Module, loss_fn: LossFn, clipping: Clipping) -> None:
        check_row_independence(model)
        self._model, self._loss_fn, self._clipping = model, loss_fn, clipping

    def accumulate(self, batch: Batch, patients: Sequence[int]) -> ClippedBatch:
        """Add the batch's clipped sum to `p.summed_grad`."""
        check_row_independence(self._model)
        if not len(patients):
            return ClippedBatch(torch.zeros(0), torch.zeros(0))
        named = get_trainable_parameters(self._model)
        index = PatientIndex(patients, next(iter(named.values())).device)
        losses = self._per_sample_gradients(batch, len(patients))
        gradients = {name: index.sum_over_rows(rows.flatten(1)) for name, rows in _get_sample_gradients(named).items()}
        groups = dict(zip(named, self._clipping.assign_groups(named), strict=True))
        squared = losses.new_zeros((index.count, self._clipping.group_count))
        for name, gradient in gradients.items():
            squared[:, groups[name]] += gradient.square().sum(1)
        factors, norms = compute_clip_factors(self._clipping, squared, index.sum_over_rows(losses))
        for name, gradient in gradients.items():
            add_to_summed_grad(named[name], factors[:, groups[name]] @ zero_non_finite(gradient))
        for p in named.values():
            p.grad_sample = None  # type: ignore[attr-defined]
        return ClippedBatch(losses, norms)

    def _per_sample_gradients(self, batch: Batch, rows: int) -> Tensor:
        """Fill `p.grad_sample` [B, ...] and return the losses [B]; ordinary gradients are discarded."""
        for p in self._model.parameters():
            p.grad_sample = None  # type: ignore[attr-defined]
        hooks = _TensorHooks(self._model, loss_reduction="sum", strict=False)
        expand = [
            module.register_forward_pre_hook(partial(expand_shared_ids, rows))
            for module in self._model.modules()
            if isinstance(module, nn.Embedding)
        ]
        try:
            losses = reduce_row_losses(self._loss_fn(self._model, batch), rows)
            losses.sum().backward()  # type: ignore[no-untyped-call]
        finally:
            hooks.remove_hooks()
            for handle in expand:
                handle.remove()
            for p in self._model.parameters():
                p.grad = None
        for name, gradient in _get_sample_gradients(get_trainable_parameters(self._model)).items():
            if len(gradient) != rows:
                raise PrivacyError(f"parameter {name} saw {len(gradient)} rows of a batch of {rows}", f"Use {ORACLE}.")
        return losses.detach()


def _get_sample_gradients(named: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    """Return the per-sample gradients [B, ...] of the parameters that this step used."""
    return {name: p.grad_sample for name, p in named.items() if p.grad_sample is not None}  # type: ignore[attr-defined]
