"""Fusion: from one feature vector per modality to logits."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn


class ConcatFusion(nn.Module):
    """Concatenate the modalities and classify with a small perceptron.

    Args:
        modalities: how many feature vectors come in.
        dim: width of each.
        outputs: logits per row.
        hidden: width of the hidden layer; 0 is a linear classifier.
        dropout: before the last layer.

    """

    def __init__(self, modalities: int, dim: int, outputs: int, hidden: int = 64, dropout: float = 0.1) -> None:
        super().__init__()
        if hidden:
            body: list[nn.Module] = [nn.Linear(modalities * dim, hidden), nn.ReLU(), nn.Dropout(dropout)]
        else:
            body = [nn.Dropout(dropout)]
        self.head = nn.Sequential(*body, nn.Linear(hidden or modalities * dim, outputs))

    def forward(self, features: list[Tensor]) -> Tensor:
        """Return logits [B, outputs] of features, each [B, dim]."""
        return cast(Tensor, self.head(torch.cat(features, dim=1)))


class GatedFusion(nn.Module):
    """Weigh the modalities by gates computed from all of them (Arevalo et al., ICLR workshop 2017), then classify.

    Args:
        modalities: how many feature vectors come in.
        dim: width of each.
        outputs: logits per row.
        dropout: before the last layer.

    """

    def __init__(self, modalities: int, dim: int, outputs: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.gate = nn.Linear(modalities * dim, modalities)
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(dim, outputs))

    def forward(self, features: list[Tensor]) -> Tensor:
        """Return logits [B, outputs] of features, each [B, dim]."""
        gates = torch.softmax(self.gate(torch.cat(features, dim=1)), dim=1)
        mixed = (torch.stack(features, dim=1) * gates.unsqueeze(-1)).sum(dim=1)
        return cast(Tensor, self.head(mixed))
