"""Losses per row, so that private training can clip each row's gradient."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fedhealth.config.schema import TaskKind

_IGNORED_CLASS = -100


def compute_row_losses(logits: Tensor, targets: Tensor, kind: TaskKind) -> Tensor:
    """Return one loss per row [B] of logits [B, outputs] and targets [B, K]; missing labels cost nothing."""
    if kind is TaskKind.multiclass:
        classes = torch.nan_to_num(targets[:, 0], nan=_IGNORED_CLASS).long()
        return F.cross_entropy(logits, classes, ignore_index=_IGNORED_CLASS, reduction="none")
    known = ~torch.isnan(targets)
    losses = F.binary_cross_entropy_with_logits(logits, torch.nan_to_num(targets), reduction="none")
    return (losses * known).sum(dim=1) / known.sum(dim=1).clamp(min=1)
