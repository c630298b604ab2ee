"""Train a model on a site's rows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from fedhealth.config.schema import TaskKind, TrainingConfig
from fedhealth.data.examples import Batch, Examples, iterate_batches, move_batch
from fedhealth.errors import DataError, ModelError
from fedhealth.models.multimodal import MultimodalModel
from fedhealth.privacy.context import AccountingContext
from fedhealth.training.in_place_step import take_step
from fedhealth.training.losses import compute_row_losses
from fedhealth.training.optimizers import build_optimizer, collect_gradients, count_steps
from fedhealth.training.precision import autocast_forward, checkpoint_activations, compile_model, use_channels_last
from fedhealth.training.seeding import seed_generators
from fedhealth.training.step_checkpoint import StepCheckpoint
from fedhealth.types import State

if TYPE_CHECKING:  # the accountants take time to import, and plain training does not need them
    from fedhealth.privacy.accounting.budget import PrivacyBudget
    from fedhealth.privacy.accounting.plan import PrivacyPlan
    from fedhealth.privacy.mechanisms.noise_share import NoiseShare


Statistics = dict[str, np.ndarray]
_TARGETS = "targets"  # copied with the inputs
_DIVERGED_LOSS = 2.0**16  # far above any loss of a model that learns; its sum over all rows fits into 64 bits

GradientHook = Callable[[int, Mapping[str, nn.Parameter]], None]
"""Called at every step (from 0) as hook(step, trained parameters), after the backward pass and, in private training,
after the noise. It may change `p.grad` by terms that do not depend on patients, or only through noised gradients; it
keeps a copy of what it needs later, as the step may change `p.grad`, too."""


@dataclass(frozen=True)
class FitReport:
    """The result of local training.

    Attributes:
        steps: optimizer steps.
        examples: number of distinct training rows.
        loss: mean per row; NaN in private training: it has no noise, so nothing may be derived from it.
        direction: the negative gradient of the only step, in the form that leaves, by name; None if the site sends the
            change of its weights. Where the noise is shared: in steps of the noise's grid.

    """

    steps: int
    examples: int
    loss: float
    direction: State | None = None


@dataclass(frozen=True)
class TrainingTask:
    """The model, data and settings of one round of local training.

    Attributes:
        model: trained in place.
        examples: the site's data.
        rows: indices of the training rows.
        training: the settings.
        kind: of the prediction task.
        seed: determines batch order and dropout of training without noise; DP-SGD draws everything anew.
        gradient_hook: changes the gradients of each step; None for none.
        is_resumable: whether an interrupted round may resume; False if `gradient_hook` keeps state between steps.
        shares: this site's share of the noise of the sum, by array or table; None if the site adds all noise itself.
        rate_factor: of the round, on the learning rate.
        start: the model's trained arrays at the start of the round, by which an interrupted round is known; None takes
            the model's own.

    """

    model: MultimodalModel
    examples: Examples
    rows: np.ndarray
    training: TrainingConfig
    kind: TaskKind
    seed: int
    gradient_hook: GradientHook | None = None
    is_resumable: bool = True
    shares: Mapping[str, NoiseShare] | None = None
    rate_factor: float = 1.0
    start: State | None = None


@dataclass(frozen=True)
class Workload:
    """The size of a site's training data.

    Attributes:
        studies: number of studies of each patient.
        modalities: that the model has a tower for.

    """

    studies: tuple[int, ...]
    modalities: frozenset[str]


class Trainer(Protocol):
    """Train a site's model in place, with or without differential privacy.

    Attributes:
        is_private: whether training is differentially private; then only privately computed values may leave the site.
        delta: of the guarantee; 0 without differential privacy.
        shares_noise: whether the sites share the noise of a sum, instead of each adding all of it.

    """

    is_private: bool
    delta: float
    shares_noise: bool

    @property
    def dataset(self) -> str:
        """Name of the data set's privacy ledger; empty without differential privacy."""

    @property
    def unit(self) -> str:
        """The privacy unit: `patient`, `record`, `client` or `none`."""

    def check_failures(self, folder: Path) -> None:
        """Check, before any data are touched, that not too many private tasks on the data set have failed.

        Args:
            folder: the site's private folder.

        Raises:
            PrivacyError: too many have failed, or the ledger is damaged.

        """

    def check_can_join(self, task: TrainingTask, accounting: AccountingContext) -> list[str]:
        """Return the reasons why this site cannot join the run; empty if it can. Spends no budget."""

    def count_round_steps(self, task: TrainingTask, accounting: AccountingContext) -> int:
        """Return the number of optimizer steps of one round; in private training it follows public numbers."""

    def compute_least_noise(self, task: TrainingTask, accounting: AccountingContext) -> tuple[float, float]:
        """Return the least noise multipliers that the site accepts in sums of models and of statistics.

        Zeros if it adds all noise itself, or none.

        Raises:
            PrivacyError: no plan meets the run's target epsilon and the site's policy.

        """

    def plan_task(self, task: TrainingTask, accounting: AccountingContext) -> PrivacyPlan | None:
        """Return the plan of the whole run for its purpose; None without differential privacy.

        Raises:
            PrivacyError: no plan meets the run's target epsilon and the site's policy.

        """

    def plan_run(
        self, work: Workload, training: TrainingConfig, rounds: int, shares: int = 1
    ) -> tuple[PrivacyBudget, PrivacyPlan] | None:
        """Return the site's privacy budget and the plan of the whole run; None without differential privacy.

        Args:
            work: size of the training data.
            training: the settings.
            rounds: of the run.
            shares: the most honest sites that share the noise of a sum.

        Raises:
            PrivacyError: the privacy target cannot be met within the site's policy.

        """

    def count_units(self, task: TrainingTask) -> int:
        """Return how many of what a step averages over the site has: training rows, or units of privacy."""

    def count_weighted_rows(self, patients: np.ndarray) -> int:
        """Return how many training rows count in the site's weight, given the patient of each row [n]."""

    def compute_aggregation_weights(self, rows: Mapping[str, int]) -> dict[str, int]:
        """Return the site's weights in the mean, by tower, from its numbers of training rows."""

    def fit(self, task: TrainingTask, accounting: AccountingContext | None = None) -> FitReport:
        """Train for one round; the returned report stays at the site."""

    def select_scored_rows(self, examples: Examples, rows: np.ndarray) -> np.ndarray:
        """Return the rows of a held-out split that the statistics may count."""

    def protect_update(self, update: State, task: TrainingTask, accounting: AccountingContext) -> State:
        """Return the update in the form that may leave the site."""

    def release_statistics(
        self, statistics: Statistics, task: TrainingTask, accounting: AccountingContext
    ) -> Statistics:
        """Return the statistics that may leave the site, with noise in private training."""

    def record_release(self, accounting: AccountingContext, digest: str, late_rounds: Collection[int] = ()) -> None:
        """Record that the words with this digest leave the site from now on; on return it is on the disk.

        Args:
            accounting: the run, round, purpose and exchange.
            digest: keyed digest of the update and the statistics, before masking.
            late_rounds: earlier rounds whose updates they contain too.

        Raises:
            PrivacyError: no booking pays for them; nothing may leave.

        """

    def is_recorded_release(self, accounting: AccountingContext, digest: str) -> bool:
        """Return whether the words with this digest are recorded as released, or need no record."""


class PlainTrainer:
    """Minibatch training without differential privacy."""

    is_private = False
    shares_noise = False
    delta = 0.0
    dataset = ""
    unit = "none"

    def check_failures(self, folder: Path) -> None:
        """Do nothing: failures are limited where they could tell what privacy hides."""

    def check_can_join(self, task: TrainingTask, accounting: AccountingContext) -> list[str]:
        """Return no reasons: there is no privacy budget to check."""
        return []

    def count_round_steps(self, task: TrainingTask, accounting: AccountingContext) -> int:
        """Return the number of optimizer steps of one round."""
        return count_steps(task.training, len(task.rows))

    def compute_least_noise(self, task: TrainingTask, accounting: AccountingContext) -> tuple[float, float]:
        """Return zeros: there is no noise."""
        return 0.0, 0.0

    def plan_task(self, task: TrainingTask, accounting: AccountingContext) -> None:
        """Return None: the run has no privacy plan."""

    def plan_run(self, work: Workload, training: TrainingConfig, rounds: int, shares: int = 1) -> None:
        """Return None: the run has no privacy plan."""

    def count_units(self, task: TrainingTask) -> int:
        """Return the number of training rows."""
        return len(task.rows)

    def count_weighted_rows(self, patients: np.ndarray) -> int:
        """Return the number of rows."""
        return len(patients)

    def compute_aggregation_weights(self, rows: Mapping[str, int]) -> dict[str, int]:
        """Return the counts as they are."""
        return dict(rows)

    def select_scored_rows(self, examples: Examples, rows: np.ndarray) -> np.ndarray:
        """Return all rows."""
        return rows

    def protect_update(self, update: State, task: TrainingTask, accounting: AccountingContext) -> State:
        """Return the update as it is."""
        return update

    def release_statistics(
        self, statistics: Statistics, task: TrainingTask, accounting: AccountingContext
    ) -> Statistics:
        """Return the statistics as they are."""
        return statistics

    def record_release(self, accounting: AccountingContext, digest: str, late_rounds: Collection[int] = ()) -> None:
        """Do nothing: no budget pays for a release."""

    def is_recorded_release(self, accounting: AccountingContext, digest: str) -> bool:
        """Return True: releases need no record."""
        return True

    def fit(self, task: TrainingTask, accounting: AccountingContext | None = None) -> FitReport:
        """Train for `count_steps(training)` optimizer steps.

        Raises:
            DataError: there are no rows.
            ModelError: the loss is not finite, or huge.

        """
        report = fit_without_noise(task, accounting)
        if not report.loss < _DIVERGED_LOSS:  # also NaN
            raise ModelError(
                f"Training diverged: the mean loss of the round is above {_DIVERGED_LOSS:g} or not a number.",
                "Lower training.optimizer.lr, or check the inputs for extreme values.",
            )
        return report


def fit_without_noise(task: TrainingTask, accounting: AccountingContext | None = None) -> FitReport:
    """Train for `count_steps(training)` optimizer steps, also where the loss is not finite.

    Raises:
        DataError: there are no rows.

    """
    model, examples, rows, training = task.model, task.examples, task.rows, task.training
    if not len(rows):
        raise DataError("There is no row to train on.", "Label some training rows.")
    model.train()
    device = next(model.parameters()).device
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = build_optimizer(training, parameters, task.rate_factor)
    steps = count_steps(training, len(rows))
    about = (task.seed, steps, rows.tolist(), examples.digest)
    checkpoint = StepCheckpoint(get_checkpoint_folder(task, accounting), model, optimizer, about, task.start)
    devices, forward = [device] if device.type == "cuda" else [], compile_model(model, training)
    with (
        use_channels_last(model, training),
        checkpoint_activations(model, training),
        torch.random.fork_rng(devices=devices),
    ):
        seed_generators(task.seed, device)
        checkpoint.restore()
        order = iterate_batches(rows, training.batch_size, np.random.default_rng(task.seed))
        for step, chosen in islice(enumerate(order), checkpoint.step, steps):
            optimizer.zero_grad(set_to_none=True)
            loss = _add_gradients(task, forward, np.repeat(chosen, examples.copies), device)
            if task.gradient_hook:
                task.gradient_hook(step, parameters)
            take_step(optimizer)
            checkpoint.record_step(step + 1, loss)
    checkpoint.delete()
    report = FitReport(steps, len(rows), float(checkpoint.loss) / steps, collect_gradients(training, parameters))
    optimizer.zero_grad(set_to_none=True)  # as large as the model, and of no use between two rounds
    return report


def _add_gradients(
    task: TrainingTask, forward: Callable[[Batch], Tensor], chosen: np.ndarray, device: torch.device
) -> Tensor:
    """Add the gradient of the mean loss of some rows to `p.grad`, computed a few rows at a time; return the loss.

    It stays on the device: reading it in every step would let a GPU wait for the next batch.
    """
    size = task.training.micro_batch_size or len(chosen)
    total = torch.zeros((), dtype=torch.float64, device=device)
    for start in range(0, len(chosen), size):
        some = chosen[start : start + size]
        batch = move_batch(task.examples.batch(some) | {_TARGETS: task.examples.targets(some)}, device)
        targets = batch.pop(_TARGETS)
        with _explain_batch_norm(len(some)), autocast_forward(task.training, device):
            scores = forward(batch).float()
        losses = compute_row_losses(scores, targets, task.kind, task.training)
        loss = losses.mean() if len(some) == len(chosen) else losses.sum() / len(chosen)
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.detach()
    return total


@contextmanager
def _explain_batch_norm(rows: int) -> Iterator[None]:
    """Explain why BatchNorm fails on a batch of one row: it normalizes by the spread over the batch."""
    try:
        yield
    except ValueError as fault:
        if rows > 1 or "Expected more than 1 value per channel" not in str(fault):
            raise
        raise ModelError(
            "The last batch of an epoch has one row, and BatchNorm needs two.",
            "Choose another training.batch_size, or model.image.norm=group.",
        ) from fault


def get_checkpoint_folder(task: TrainingTask, accounting: AccountingContext | None) -> Path | None:
    """Return the folder of a round's checkpoint; None if the round cannot resume."""
    return accounting.folder if accounting and task.is_resumable else None
