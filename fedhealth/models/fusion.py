"""Fusion: from one feature vector per modality to logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from fedhealth.errors import ModelError


class ConcatFusion(nn.Module):
    """Concatenate the modalities and classify with a small perceptron.

    Args:
        widths: of the feature vectors, one per modality.
        outputs: logits per row.
        hidden: width of the hidden layer; 0 is a linear classifier.
        dropout: before the last layer.
        zero: initialize the last layer with zeros instead of random weights. With `hidden: 0`, `model.dim: null` and
            frozen encoders this is logistic regression on their features.

    """

    def __init__(
        self, widths: Sequence[int], outputs: int, hidden: int = 64, dropout: float = 0.1, zero: bool = False
    ) -> None:
        super().__init__()
        if hidden:
            body: list[nn.Module] = [nn.Linear(sum(widths), hidden), nn.ReLU(), nn.Dropout(dropout)]
        else:
            body = [nn.Dropout(dropout)]
        last = nn.Linear(hidden or sum(widths), outputs)
        if zero:
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        self.head = nn.Sequential(*body, last)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Return logits [B, outputs] of features, each [B, width]."""
        return cast(Tensor, self.head(torch.cat(features, dim=1)))


class GatedFusion(nn.Module):
    """Weight the modalities by gates computed from all of them (Arevalo et al., ICLR workshop 2017), then classify.

    Args:
        widths: of the feature vectors, one per modality; all equal.
        outputs: logits per row.
        dropout: before the last layer.

    Raises:
        ModelError: the widths differ.

    """

    def __init__(self, widths: Sequence[int], outputs: int, dropout: float = 0.1) -> None:
        super().__init__()
        if len(set(widths)) > 1:
            raise ModelError(
                f"model.fusion: gates cannot mix features of widths {', '.join(map(str, widths))}.",
                "Give model.dim a number.",
            )
        self.gate = nn.Linear(sum(widths), len(widths))
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(widths[0], outputs))

    def forward(self, features: list[Tensor]) -> Tensor:
        """Return logits [B, outputs] of features, each [B, dim]."""
        gates = torch.softmax(self.gate(torch.cat(features, dim=1)), dim=1)
        mixed = (torch.stack(features, dim=1) * gates.unsqueeze(-1)).sum(dim=1)
        return cast(Tensor, self.head(mixed))
