"""Scale pixel values to what an encoder expects: by numbers, one for each channel, or by a published name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedhealth.errors import ModelError

Level = float | Sequence[float]
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # of torchvision's own weights
NAMED_SCALES: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "imagenet": IMAGENET,
    "half": ((0.5,), (0.5,)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
}


@dataclass(frozen=True)
class PixelScale:
    """(values in 0..1 - mean) / std, for all channels or one by one."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


def make_pixel_scale(mean: Level, std: Level, normalization: str | None) -> PixelScale:
    """Return the scale of a configuration.

    Args:
        mean: of all channels, or one for each.
        std: likewise, positive.
        normalization: a name of `NAMED_SCALES`, or of torchvision's weights, such as
            `ResNet18_Weights.IMAGENET1K_V1`; it replaces the two. Null for none.

    Raises:
        ModelError: there is no such name, or a number is out of range.

    """
    if normalization is not None:
        return PixelScale(*_find_named_scale(normalization))
    means, stds = (tuple(map(float, x)) if isinstance(x, Sequence) else (float(x),) for x in (mean, std))
    if not means or not stds or min(stds) <= 0 or (len(means) not in (1, len(stds)) and len(stds) != 1):
        raise ModelError(
            f"model.image: mean={list(means)} and std={list(stds)} do not fit each other.",
            "Give a number or one number for each channel; a standard deviation is positive.",
        )
    return PixelScale(means, stds)


def scale_pixels(images: Tensor, scale: PixelScale, planes: int) -> Tensor:
    """Return images [B, C, H, W] in 0..255 (or 16 bits) as scaled floats [B, planes, H, W]."""
    top = 65535.0 if images.dtype == torch.uint16 else 255.0
    if len(scale.mean) == len(scale.std) == 1:
        return _match_planes((images.float() / top - scale.mean[0]) / scale.std[0], planes)
    mean, std = (torch.tensor(x, device=images.device).view(1, -1, 1, 1) for x in (scale.mean, scale.std))
    return (_match_planes(images.float() / top, planes) - mean) / std


def check_scale_fits(scale: PixelScale, planes: int) -> None:
    """Refuse a scale with another number of channels than the network's input.

    Raises:
        ModelError: it has another number.

    """
    for values in (scale.mean, scale.std):
        if len(values) not in (1, planes):
            raise ModelError(
                f"model.image: the scale has {len(values)} channels, the network {planes}.",
                "Give mean and std one number, or one for each channel of the network.",
            )


def describe_scale(scale: PixelScale) -> str:
    """Return the scale as text, for the fingerprint of cached features."""
    mean, std = (x[0] if len(x) == 1 else list(x) for x in (scale.mean, scale.std))
    return f"mean={mean}, std={std}"


def _match_planes(scaled: Tensor, planes: int) -> Tensor:
    if scaled.shape[1] < planes:
        return scaled.expand(-1, planes, -1, -1)
    return scaled.mean(dim=1, keepdim=True) if scaled.shape[1] > planes else scaled


def _find_named_scale(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if name in NAMED_SCALES:
        return NAMED_SCALES[name]
    from torchvision.models import get_weight  # takes half a second to import, and most scales are named here

    try:
        published = get_weight(name).transforms()
        return tuple(published.mean), tuple(published.std)
    except (ValueError, KeyError, AttributeError) as fault:
        raise ModelError(
            f"model.image.normalization: there is no {name!r}.",
            f"Use one of {', '.join(NAMED_SCALES)}, or the name of torchvision's weights.",
        ) from fault
