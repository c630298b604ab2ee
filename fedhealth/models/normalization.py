"""Replace batch normalization for private training, because batch statistics mix patients.

`group` replaces BatchNorm by GroupNorm and keeps the pretrained scale and shift (Opacus's `fix` discards them);
`freeze` keeps the pretrained statistics as constants.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedhealth.errors import PrivacyError

_MAX_GROUPS = 32


class FrozenBatchNorm(nn.Module):
    """BatchNorm that stays in evaluation mode, also after `train()`, and has no trainable parameters.

    Args:
        source: the layer whose statistics and affine weights are copied, under the same names.

    """

    def __init__(self, source: nn.modules.batchnorm._BatchNorm) -> None:
        super().__init__()
        self.eps = source.eps
        for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            value = getattr(source, name)
            self.register_buffer(name, None if value is None else value.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """Normalize [B, C, ...] with the stored statistics."""
        mean, var, weight, bias = (
            self.get_buffer(n) if self._buffers[n] is not None else None
            for n in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(x, mean, var, weight, bias, training=False, eps=self.eps)


def replace_batch_norm(model: nn.Module, norm: Literal["group", "freeze"] = "group") -> nn.Module:
    """Replace every BatchNorm in place and return the model (a new one only if the model itself is a BatchNorm).

    Args:
        model: any model.
        norm: `group` for GroupNorm with the pretrained affine weights, `freeze` for constant statistics.

    Raises:
        PrivacyError: a layer to be frozen has no statistics.

    """
    if norm not in ("group", "freeze"):
        raise PrivacyError(f"unknown norm {norm!r}", "Choose group or freeze.")
    make = _convert_to_group_norm if norm == "group" else _freeze_batch_norm
    if isinstance(model, nn.modules.batchnorm._BatchNorm):
        return make(model, "(the model itself)")
    for parent_name, parent in list(model.named_modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.modules.batchnorm._BatchNorm):
                setattr(parent, name, make(child, f"{parent_name}.{name}".lstrip(".")))
    return model


def _convert_to_group_norm(source: nn.modules.batchnorm._BatchNorm, _: str) -> nn.Module:
    channels = source.num_features
    layer = nn.GroupNorm(math.gcd(_MAX_GROUPS, channels), channels, source.eps, source.affine)
    if source.affine:
        with torch.no_grad():
            layer.weight.copy_(source.weight)
            layer.bias.copy_(source.bias)
        layer.weight.requires_grad_(source.weight.requires_grad)
        layer.bias.requires_grad_(source.bias.requires_grad)
        layer.to(source.weight.device, source.weight.dtype)
    return layer.train(source.training)


def _freeze_batch_norm(source: nn.modules.batchnorm._BatchNorm, name: str) -> nn.Module:
    if source.running_mean is None:
        raise PrivacyError(f"layer {name} has no statistics to freeze", "Use norm='group'.")
    return FrozenBatchNorm(source)
