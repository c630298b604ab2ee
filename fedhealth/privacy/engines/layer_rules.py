"""One rule for each layer type: how its input and its output's gradient give the gradients of weight and bias."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from fedhealth.errors import PrivacyError
from fedhealth.privacy.engines.base import ORACLE
from fedhealth.privacy.engines.layer_gradients import (
    ConvOuterProduct,
    EmbeddingGradient,
    GradientPart,
    OuterProduct,
    RowGradients,
)

LayerRule = Callable[[Any, Tensor, Tensor], dict[str, GradientPart]]
"""(module, input, gradient of the output) -> the parts of each parameter's gradient, by the parameter's name."""


def _factor_linear(module: nn.Linear, a: Tensor, g: Tensor) -> dict[str, GradientPart]:
    a, g = (x.reshape(x.shape[0], 1, -1, x.shape[-1]) for x in (a, g))
    return {"weight": OuterProduct(a, g), "bias": RowGradients(g.sum((1, 2)))}


def _factor_conv(module: nn.Conv2d, a: Tensor, g: Tensor) -> dict[str, GradientPart]:
    return {"weight": ConvOuterProduct(module, a, g), "bias": RowGradients(g.flatten(2).sum(2))}


def _factor_embedding(module: nn.Embedding, ids: Tensor, g: Tensor) -> dict[str, GradientPart]:
    ids, g = ids.reshape(ids.shape[0], -1), g.reshape(g.shape[0], -1, g.shape[-1])
    if module.padding_idx is not None:
        g = g * (ids != module.padding_idx)[..., None]
    return {"weight": EmbeddingGradient(ids, g, module.num_embeddings)}


def _factor_layer_norm(module: nn.LayerNorm, a: Tensor, g: Tensor) -> dict[str, GradientPart]:
    normal = F.layer_norm(a, module.normalized_shape, None, None, module.eps)
    return _factor_affine(normal, g, len(module.normalized_shape))


def _factor_rms_norm(module: nn.RMSNorm, a: Tensor, g: Tensor) -> dict[str, GradientPart]:
    normal = F.rms_norm(a, module.normalized_shape, None, module.eps)
    return _factor_affine(normal, g, len(module.normalized_shape))


def _factor_affine(normal: Tensor, g: Tensor, last: int) -> dict[str, GradientPart]:
    """Return the parts of y = normal * weight + bias over the last dimensions, summed over those between."""
    between = list(range(1, g.dim() - last))
    weight = normal.mul_(g)
    return {
        "weight": RowGradients(weight.sum(between) if between else weight),
        "bias": RowGradients(g.sum(between) if between else g),
    }


def _factor_group_norm(module: nn.GroupNorm, a: Tensor, g: Tensor) -> dict[str, GradientPart]:
    normal = F.group_norm(a, module.num_groups, None, None, module.eps)
    weight, bias = (x.reshape(*x.shape[:2], -1).sum(2) for x in (normal.mul_(g), g))
    return {"weight": RowGradients(weight), "bias": RowGradients(bias)}


LAYER_RULES: dict[type[nn.Module], LayerRule] = {
    nn.Linear: _factor_linear,
    nn.Conv2d: _factor_conv,
    nn.Embedding: _factor_embedding,
    nn.LayerNorm: _factor_layer_norm,
    nn.RMSNorm: _factor_rms_norm,
    nn.GroupNorm: _factor_group_norm,
}


def find_layer_rule(name: str, module: nn.Module) -> LayerRule:
    """Return the rule of a layer that has trainable parameters of its own.

    A subclass uses its parent's rule if it does not override the parent's forward.

    Raises:
        PrivacyError: naming the layer, when no rule is known for it.

    """
    _check_layer_options(name, module)
    trainable = [n for n, p in module.named_parameters(recurse=False) if p.requires_grad]
    for kind, rule in LAYER_RULES.items():
        if isinstance(module, kind) and type(module).forward is kind.forward and {*trainable} <= {"weight", "bias"}:
            return rule
    own = ", ".join(trainable)
    raise PrivacyError(
        f"layer {name or '(the model itself)'} ({type(module).__name__}) has trainable parameters ({own}) for which "
        "no per-patient gradient is known",
        f"Freeze them, replace the layer (nn.Embedding(1, d) for a bare nn.Parameter), or use {ORACLE}.",
    )


def _check_layer_options(name: str, module: nn.Module) -> None:
    fault = ""
    if isinstance(module, nn.Embedding) and (module.max_norm is not None or module.scale_grad_by_freq or module.sparse):
        fault = "max_norm, scale_grad_by_freq or sparse"
    if isinstance(module, nn.Conv2d):
        if module.padding_mode != "zeros":
            fault = f"padding_mode={module.padding_mode!r}"
        uneven = any(d * (k - 1) % 2 for d, k in zip(module.dilation, module.kernel_size, strict=True))
        if module.padding == "same" and uneven:
            fault = "padding='same' with an even kernel"
    if fault:
        raise PrivacyError(
            f"layer {name} ({type(module).__name__}) uses {fault}, for which no per-patient gradient is known",
            "Build the layer without this option or freeze it.",
        )
