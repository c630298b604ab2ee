"""Losses per row, so that private training can clip each row's gradient.

Weights of classes come from a public prevalence, never from the rows of a batch: a row's loss depends on that row only.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fedhealth.config.schema import TaskKind, TrainingConfig

_IGNORED_CLASS = -100


def compute_row_losses(
    logits: Tensor, targets: Tensor, kind: TaskKind, training: TrainingConfig | None = None
) -> Tensor:
    """Return one loss per row [B] of logits [B, outputs] and targets [B, K]; missing labels cost nothing.

    Args:
        logits: of the model.
        targets: NaN = missing.
        kind: of the prediction task.
        training: its `prevalence` and `label_smoothing`; None for neither.

    """
    prevalence = training.prevalence if training else None
    smoothing = training.label_smoothing if training else 0.0
    if kind is TaskKind.multiclass:
        classes = torch.nan_to_num(targets[:, 0], nan=_IGNORED_CLASS).long()
        losses = F.cross_entropy(
            logits, classes, ignore_index=_IGNORED_CLASS, reduction="none", label_smoothing=smoothing
        )
        return losses if prevalence is None else losses * _weigh_classes(classes, prevalence, logits)
    known = ~torch.isnan(targets)
    labels = torch.nan_to_num(targets)
    smoothed = labels * (1 - smoothing) + smoothing / 2 if smoothing else labels
    losses = F.binary_cross_entropy_with_logits(logits, smoothed, reduction="none")
    if prevalence is not None:
        share = logits.new_tensor(prevalence)
        losses = losses * torch.where(labels > 0, 1 / (2 * share), 1 / (2 * (1 - share)))
    return (losses * known).sum(dim=1) / known.sum(dim=1).clamp(min=1)


def _weigh_classes(classes: Tensor, prevalence: list[float], like: Tensor) -> Tensor:
    """Return a weight for each row: all classes together weigh as many rows as without weights."""
    weights = 1 / (len(prevalence) * like.new_tensor(prevalence))
    return weights[classes.clamp(min=0)]
