"""Train a model on a site's rows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fedhealth.config.build import instantiate
from fedhealth.config.schema import TaskKind, TrainingConfig
from fedhealth.data.batches import Examples, epochs
from fedhealth.errors import ConfigError, DataError, ModelError
from fedhealth.models.multimodal import MultimodalModel

_NO_CLASS = -100


@dataclass(frozen=True)
class FitReport:
    """What a site did: optimizer steps, distinct examples it could draw from, mean loss per row."""

    steps: int
    examples: int
    loss: float


class Trainer(Protocol):
    """Trains a model in place on some rows; `seed` decides order and dropout, never privacy noise."""

    def fit(
        self,
        model: MultimodalModel,
        examples: Examples,
        rows: np.ndarray,
        training: TrainingConfig,
        kind: TaskKind,
        seed: int,
    ) -> FitReport:
        """Train and report."""


class PlainTrainer:
    """Minibatch training without differential privacy."""

    def fit(
        self,
        model: MultimodalModel,
        examples: Examples,
        rows: np.ndarray,
        training: TrainingConfig,
        kind: TaskKind,
        seed: int,
    ) -> FitReport:
        """Train `model` for `steps_of(training)` optimizer steps on `rows`.

        Raises:
            DataError: there are no rows.
            ModelError: the loss is not finite.

        """
        if not len(rows):
            raise DataError("There is no row to train on.", "Label some training rows.")
        model.train()
        device = next(model.parameters()).device
        optimizer = instantiate(training.optimizer)([p for p in model.parameters() if p.requires_grad])
        steps = steps_of(training, len(rows))
        total = torch.zeros((), dtype=torch.float64)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            for chosen in islice(epochs(rows, training.batch_size, np.random.default_rng(seed)), steps):
                batch = {name: value.to(device) for name, value in examples.batch(chosen).items()}
                losses = row_losses(model(batch), examples.targets(chosen).to(device), kind)
                optimizer.zero_grad(set_to_none=True)
                losses.mean().backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                total += losses.detach().mean().double().cpu()
        loss = float(total) / steps
        if not math.isfinite(loss):
            raise ModelError(
                "The training loss is not a finite number.",
                "Lower the learning rate, or check the inputs for extreme values.",
            )
        return FitReport(steps, len(rows), loss)


def steps_of(training: TrainingConfig, rows: int) -> int:
    """Return the optimizer steps of one round at a site with `rows` training rows."""
    if training.local_steps is not None:
        return training.local_steps
    return math.ceil(rows / training.batch_size) * (training.local_epochs or 1)


def row_losses(logits: Tensor, targets: Tensor, kind: TaskKind) -> Tensor:
    """Return one loss per row [B] of logits [B, outputs] and targets [B, K]; missing labels cost nothing."""
    if kind is TaskKind.multiclass:
        classes = torch.nan_to_num(targets[:, 0], nan=_NO_CLASS).long()
        return F.cross_entropy(logits, classes, ignore_index=_NO_CLASS, reduction="none")
    known = ~torch.isnan(targets)
    losses = F.binary_cross_entropy_with_logits(logits, torch.nan_to_num(targets), reduction="none")
    return (losses * known).sum(dim=1) / known.sum(dim=1).clamp(min=1)


def device_of(name: str) -> torch.device:
    """Return the device that `auto`, `cpu`, `cuda` or `cuda:1` names on this machine.

    Raises:
        ConfigError: there is no such device here.

    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as fault:  # torch asserts that it was compiled with CUDA
        reason = str(fault).splitlines()[0]
        raise ConfigError(f"training.device={name} cannot be used: {reason}", "Use auto, cpu or cuda.") from fault
