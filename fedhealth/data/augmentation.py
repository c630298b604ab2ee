"""Random changes of training images, by transforms of torchvision.transforms.v2 that a configuration names.

Only transforms from a closed list, which keep the size of an image. Flips are none of the defaults: a mirrored
radiograph shows another patient (the heart on the right side), unless the object has no sides, such as skin.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fedhealth.config.instantiate import instantiate
from fedhealth.config.schema import TrainingConfig
from fedhealth.errors import ConfigError

KNOWN_TRANSFORMS = (
    "ColorJitter",
    "GaussianBlur",
    "RandomAdjustSharpness",
    "RandomAffine",
    "RandomAutocontrast",
    "RandomErasing",
    "RandomHorizontalFlip",
    "RandomPerspective",
    "RandomRotation",
    "RandomVerticalFlip",
)
_WHERE = "training.augmentation"


class Augmentation:
    """Change each training image at random, every time anew.

    Args:
        transforms: each with a `name` of `KNOWN_TRANSFORMS` and its arguments.
        copies: changed copies of each row in a step; their gradients are averaged before a patient's is clipped (De et
            al., "Unlocking high-accuracy differentially private image classification through scale", 2022, section
            3.2), so they cost time, and no privacy.

    """

    def __init__(self, transforms: Sequence[Mapping[str, Any]], copies: int = 1) -> None:
        if copies < 1:
            raise ConfigError(f"{_WHERE}.copies: must be at least 1, is {copies}.", "Use 1, or up to about 8.")
        self.copies = copies
        self._changes = [_make_transform(each) for each in transforms]

    def change_images(self, images: Tensor, present: Tensor) -> Tensor:
        """Return images [B, C, H, W] of the same type, each changed by draws of its own; missing ones stay as they are.

        Args:
            images: uint8, or uint16.
            present: bool [B].

        """
        changed = [self._change_image(image) if has else image for image, has in zip(images, present, strict=True)]
        return torch.stack(changed) if changed else images

    def _change_image(self, image: Tensor) -> Tensor:
        if image.dtype != torch.uint16:
            return self._apply(image)
        found = self._apply(image.float() / 65535)  # torchvision changes no 16-bit values
        return (found.clamp(0, 1) * 65535).round().to(torch.int32).to(torch.uint16)

    def _apply(self, image: Tensor) -> Tensor:
        changed = image
        for change in self._changes:
            changed = change(changed)
        if changed.shape != image.shape:
            raise ConfigError(f"{_WHERE}: it changes the size of images.", "Use transforms that keep it.")
        return changed


def make_augmentation(training: TrainingConfig) -> Augmentation | None:
    """Return the configured augmentation; None if there is none."""
    made: Augmentation | None = instantiate(training.augmentation) if training.augmentation else None
    return made


def _make_transform(about: Mapping[str, Any]) -> Any:
    """Return one transform.

    Raises:
        ConfigError: it is not in the list, or its arguments do not fit.

    """
    from torchvision.transforms import v2  # takes a second to import, and most runs change no images

    name, arguments = str(about.get("name")), {key: value for key, value in about.items() if key != "name"}
    if name not in KNOWN_TRANSFORMS:
        raise ConfigError(f"{_WHERE}: {name!r} is not allowed.", f"Use one of {', '.join(KNOWN_TRANSFORMS)}.")
    try:
        return getattr(v2, name)(**{key: _to_plain(value) for key, value in arguments.items()})
    except (TypeError, ValueError) as fault:
        raise ConfigError(f"{_WHERE}: {name} cannot be built ({fault}).", "Correct its arguments.") from fault


def _to_plain(value: Any) -> Any:
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
