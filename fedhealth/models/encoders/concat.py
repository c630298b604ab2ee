"""Several encoders of one modality side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from fedhealth.errors import ModelError


class ConcatEncoder(nn.Module):
    """The features of several image encoders, one after another.

    Args:
        encoders: by name, each with a `width`; all see the same images.

    """

    may_have_own_adapters = True

    def __init__(self, encoders: Mapping[str, nn.Module]) -> None:
        super().__init__()
        if len(encoders) < 2:
            raise ModelError("model.image.encoders: there are fewer than two.", "Use the encoder itself.")
        self.encoders = nn.ModuleDict(encoders)
        self.width = sum(cast(int, encoder.width) for encoder in encoders.values())

    def forward(self, images: Tensor) -> Tensor:
        """Encode a batch of images."""
        return torch.cat([encoder(images) for encoder in self.encoders.values()], dim=1)
