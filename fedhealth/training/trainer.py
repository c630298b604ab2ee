"""Train a model on a site's rows."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from fedhealth.config.instantiate import instantiate
from fedhealth.config.schema import TaskKind, TrainingConfig
from fedhealth.data.batches import Examples, epochs
from fedhealth.errors import ConfigError, DataError, ModelError
from fedhealth.models.multimodal import MultimodalModel
from fedhealth.privacy.context import Place
from fedhealth.training.step_checkpoint import Progress
from fedhealth.types import State

if TYPE_CHECKING:  # it books at places that are defined here
    from fedhealth.privacy.accounting.budget import Allowance
    from fedhealth.privacy.accounting.plan import PrivacyPlan

_NO_CLASS = -100


Statistics = dict[str, np.ndarray]

Correction = Callable[[int, Mapping[str, nn.Parameter]], None]
"""Called at every step (from 0) with the trained parameters once their gradients are made, and noised where training
is private; may change `p.grad` by what depends on no patient, or on patients only through noised gradients."""


@dataclass(frozen=True)
class FitReport:
    """What a site did: optimizer steps, distinct examples it could draw from, mean loss per row."""

    steps: int
    examples: int
    loss: float


@dataclass(frozen=True)
class Task:
    """What to train on what. `seed` decides order and dropout, never privacy noise; `correct` changes each gradient.

    `resumable` says that `correct` remembers nothing from step to step, so that an interrupted round may go on.
    """

    model: MultimodalModel
    examples: Examples
    rows: np.ndarray
    training: TrainingConfig
    kind: TaskKind
    seed: int
    correct: Correction | None = None
    resumable: bool = True


@dataclass(frozen=True)
class Workload:
    """What a site trains on: how many patients and studies, and the modalities that the model has a tower for."""

    patients: int
    studies: int
    modalities: frozenset[str]


class Trainer(Protocol):
    """Trains a site's model in place, under some privacy promise.

    Attributes:
        private: whether nothing may leave that was computed from weights trained without it.

    """

    private: bool

    @property
    def unit(self) -> str:
        """Whom the promise protects: `patient`, `record`, `client` or `none`."""

    def objections(self, task: Task, place: Place) -> list[str]:
        """Return why this site cannot take part in the whole run; empty if it can. Nothing is spent."""

    def foresee(self, work: Workload, training: TrainingConfig, rounds: int) -> tuple[Allowance, PrivacyPlan] | None:
        """Return what the whole run would spend, and what may be spent; None where nothing is promised.

        Raises:
            PrivacyError: the promise cannot be kept within the site's policy.

        """

    def weights(self, rows: Mapping[str, int]) -> dict[str, int]:
        """Return what may be said of the training rows by tower: the site's weights in the mean."""

    def fit(self, task: Task, place: Place | None = None) -> FitReport:
        """Train for one round and report; the report stays at the site."""

    def scored(self, examples: Examples, rows: np.ndarray) -> np.ndarray:
        """Return which rows of a held-out split the statistics may count."""

    def protect(self, update: State, task: Task, place: Place) -> State:
        """Return the update as it may leave the site."""

    def release(self, statistics: Statistics, task: Task, place: Place) -> Statistics:
        """Return what of the statistics may leave the site, noised if the promise covers them."""


class PlainTrainer:
    """Minibatch training without differential privacy."""

    private = False
    unit = "none"

    def objections(self, task: Task, place: Place) -> list[str]:
        """Return nothing: nothing is promised."""
        return []

    def foresee(self, work: Workload, training: TrainingConfig, rounds: int) -> None:
        """Return nothing: nothing is promised."""

    def weights(self, rows: Mapping[str, int]) -> dict[str, int]:
        """Return the counts as they are."""
        return dict(rows)

    def scored(self, examples: Examples, rows: np.ndarray) -> np.ndarray:
        """Return all rows."""
        return rows

    def protect(self, update: State, task: Task, place: Place) -> State:
        """Return the update as it is."""
        return update

    def release(self, statistics: Statistics, task: Task, place: Place) -> Statistics:
        """Return the statistics as they are."""
        return statistics

    def fit(self, task: Task, place: Place | None = None) -> FitReport:
        """Train for `steps_of(training)` optimizer steps.

        Raises:
            DataError: there are no rows.
            ModelError: the loss is not finite.

        """
        model, examples, rows, training = task.model, task.examples, task.rows, task.training
        if not len(rows):
            raise DataError("There is no row to train on.", "Label some training rows.")
        model.train()
        device = next(model.parameters()).device
        parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        optimizer = optimizer_of(training, parameters)
        steps = steps_of(training, len(rows))
        progress = Progress(progress_folder(task, place), model, optimizer, (task.seed, steps, rows.tolist()))
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(task.seed)
            progress.take_up()
            order = epochs(rows, training.batch_size, np.random.default_rng(task.seed))
            for step, chosen in islice(enumerate(order), progress.step, steps):
                batch = {name: value.to(device) for name, value in examples.batch(chosen).items()}
                losses = row_losses(model(batch), examples.targets(chosen).to(device), task.kind)
                optimizer.zero_grad(set_to_none=True)
                losses.mean().backward()  # type: ignore[no-untyped-call]
                if task.correct:
                    task.correct(step, parameters)
                optimizer.step()
                progress.done(step + 1, progress.loss + float(losses.detach().mean()))
        progress.end()
        loss = progress.loss / steps
        if not math.isfinite(loss):
            raise ModelError(
                "The training loss is not a finite number.",
                "Lower the learning rate, or check the inputs for extreme values.",
            )
        return FitReport(steps, len(rows), loss)


def progress_folder(task: Task, place: Place | None) -> Path | None:
    """Return where a round's progress is kept, if it may be taken up again."""
    return place.folder if place and task.resumable else None


def optimizer_of(training: TrainingConfig, parameters: Mapping[str, nn.Parameter]) -> Optimizer:
    """Return the optimizer of a model's trained parameters; what lies in an encoder learns at a rate of its own."""
    inside = [p for name, p in parameters.items() if name.startswith("towers.") and ".encoder." in name]
    if training.encoder_lr == 1 or not inside:
        optimizer: Optimizer = instantiate(training.optimizer)(list(parameters.values()))
        return optimizer
    kept = set(inside)
    groups = [{"params": [p for p in parameters.values() if p not in kept]}, {"params": inside}]
    optimizer = instantiate(training.optimizer)(groups)
    optimizer.param_groups[1]["lr"] *= training.encoder_lr
    return optimizer


def use_threads(training: TrainingConfig) -> None:
    """Set the number of threads outright: it decides the last bits of a sum, and Ray starts its workers with one."""
    torch.set_num_threads(training.threads or os.cpu_count() or 1)


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
