"""The bench of an audit: a trainer with little noise, a few units, and their gradients by autograd."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torchvision.ops import StochasticDepth

from fedhealth.config.schema import Sends
from fedhealth.data.examples import Examples
from fedhealth.privacy.context import AccountingContext
from fedhealth.training.audit_features import freeze_encoders, list_large_encoders
from fedhealth.training.fit_recording import FitRecording, record_fit, to_vector
from fedhealth.training.losses import compute_row_losses
from fedhealth.training.trainer import TrainingTask

if TYPE_CHECKING:
    from fedhealth.training.dpsgd_trainer import DPSGDTrainer

BATCH = 8  # units per step of the sampler's audit
COHORT, CROWD = 14, 40  # units: for noise and contribution, and for the sampler
_LITTLE_NOISE = 1e4  # epsilon at which a contribution shows in a few steps
_MOVING, _RESTING = 1e-4, 1e-8  # learning rates: weights move measurably, or so little that gradients stay the same
_RANDOM_LAYERS = (nn.modules.dropout._DropoutNd, StochasticDepth)
_PHYSICAL_ROWS = 3  # several physical batches per step, and patients at their edges


class AuditBench:
    """One site's fits under audit.

    Args:
        trainer: as configured for the run.
        task: of the run; its model stays as it is.
        accounting: of the audit, with a scratch folder.
        patients: to train on instead of the task's own.
        is_whole: whether large encoders are trained, too; if not, they are frozen and their outputs computed once.

    Attributes:
        task: of the audit: a copy of the model without dropout, plain SGD, the patients to train on.
        is_reduced: whether a large encoder is frozen.
        own_task: of the run.
        run_trainer: as configured for the run; `trainer` is a copy that adds all noise itself.
        units: training rows of each unit of `task`.
        own_units: number of units of `own_task`.
        most_rows: of one unit in a step; of a unit with more, each step draws some.

    """

    def __init__(
        self,
        trainer: DPSGDTrainer,
        task: TrainingTask,
        accounting: AccountingContext,
        patients: Examples | None,
        is_whole: bool = False,
    ) -> None:
        model = copy.deepcopy(task.model)
        for module in model.modules():
            if isinstance(module, _RANDOM_LAYERS):
                module.p = 0.0  # a patient's gradient must be the same in every step
        optimizer = {"_target_": "torch.optim.SGD", "_partial_": True, "lr": _MOVING}
        training = replace(task.training, optimizer=optimizer, encoder_lr=1.0, local_epochs=None, batch_size=BATCH)
        training = replace(training, sends=Sends.update)  # the audit follows several steps
        self.trainer, self.accounting = copy.copy(trainer), accounting
        self.trainer.shares_noise = False  # the site's noise is all there is; `share_audit` measures its shares
        self.run_trainer = trainer
        examples = replace(task.examples, augmentation=None)  # a patient's gradient must be the same in every step
        self.task = replace(task, model=model, training=training, examples=examples, rate_factor=1.0)
        self.own_task = task
        if patients is not None:
            self.task = replace(self.task, examples=patients, rows=np.arange(len(patients.patient)))
        self.units = _group_rows(trainer, self.task)
        self.own_units = len(_group_rows(trainer, task))
        self.most_rows = trainer.max_records_per_patient if trainer.unit == "patient" else 1
        large = [] if is_whole else list_large_encoders(model)
        self.is_reduced = bool(large)
        if large:
            used = np.array(sorted({*self.select_cohort(COHORT), *self.select_crowd(CROWD)}), np.int64)
            self.task = replace(self.task, examples=freeze_encoders(model, large, self.task.examples, used))

    def make_trainer(self, **changes: object) -> DPSGDTrainer:
        """Return the trainer with the little noise of the audit and a scratch budget."""
        trainer = copy.copy(self.trainer)
        trainer.budget = replace(
            trainer.budget,
            epsilon=_LITTLE_NOISE,
            lifetime_epsilon=math.inf,
            min_noise_multiplier=0.0,
            min_cohort=2,
            max_failures=None,
            local_epsilon=math.inf,
            lifetime_local_epsilon=math.inf,
        )
        settings = {"epsilon": _LITTLE_NOISE, "noise_multiplier": None, "score_release_share": 0.0, "spare_rounds": 0}
        for name, value in (settings | {"max_physical_batch_size": _PHYSICAL_ROWS} | changes).items():
            setattr(trainer, name, value)
        return trainer

    def make_task(self, rows: Sequence[int], steps: int, rests: bool = False) -> TrainingTask:
        """Return a task of the audit over some rows, with a model of its own; its weights rest if asked for."""
        optimizer = self.task.training.optimizer | ({"lr": _RESTING} if rests else {})
        training = replace(self.task.training, local_steps=steps, optimizer=optimizer)
        model = copy.deepcopy(self.task.model)
        return replace(self.task, model=model, rows=np.asarray(rows, np.int64), training=training)

    def record_fit(
        self,
        trainer: DPSGDTrainer,
        task: TrainingTask,
        accounting: AccountingContext,
        rate: float,
        std: float,
        most_values: int | None = None,
    ) -> FitRecording:
        """Train a task of `make_task` and return what was released; see `fit_recording.record_fit`."""
        return record_fit(trainer, task, accounting, self.count_units(task.rows), rate, std, most_values)

    def get_owner(self, row: int) -> int:
        """Return the unit that a row belongs to."""
        examples = self.task.examples
        return int((examples.patient if self.trainer.unit == "patient" else examples.study)[row])

    def count_units(self, rows: Iterable[int]) -> int:
        """Return the number of units of some rows."""
        return len({self.get_owner(row) for row in rows})

    def choose_target(self) -> list[int]:
        """Return the rows of the patient whose contribution is measured: one with several studies, if there is one."""
        return max(self._list_steady_units(), key=len)

    def select_cohort(self, count: int) -> list[int]:
        """Return rows of some units that are the same in every step, with the target third, where a batch ends.

        A unit has no more rows than a step takes: the sampler would draw others of them in each step, and the sums
        would differ by more than their noise.
        """
        target = self.choose_target()
        others = [rows for rows in self._list_steady_units() if rows != target][: count - 1]
        return [row for rows in (*others[:2], target, *others[2:]) for row in rows]

    def select_crowd(self, count: int) -> list[int]:
        """Return all rows of some units, those with the most rows first."""
        return [row for rows in sorted(self.units.values(), key=len, reverse=True)[:count] for row in rows]

    def list_units(self, rows: Iterable[int]) -> list[list[int]]:
        """Return some rows, by unit."""
        owned: dict[int, list[int]] = {}
        for row in rows:
            owned.setdefault(self.get_owner(row), []).append(row)
        return list(owned.values())

    def _list_steady_units(self) -> list[list[int]]:
        return [rows[: self.most_rows] for rows in self.units.values()]

    def compute_gradient(self, rows: Sequence[int]) -> dict[str, np.ndarray]:
        """Return the gradient of one patient's summed losses by tensor, zero where it does not reach."""
        chosen, task = np.asarray(rows, np.int64), self.task
        model = copy.deepcopy(task.model).train()
        device = next(model.parameters()).device
        batch = {name: value.to(device) for name, value in task.examples.batch(chosen).items()}
        loss = compute_row_losses(
            model(batch), task.examples.targets(chosen).to(device), task.kind, task.training
        ).sum()
        named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
        return {
            name: np.zeros(p.numel()) if part is None else to_vector(part)
            for (name, p), part in zip(named.items(), found, strict=True)
        }


def _group_rows(trainer: DPSGDTrainer, task: TrainingTask) -> dict[int, list[int]]:
    """Return the training rows of each unit; of a study's patient, the first studies only."""
    owners = task.examples.patient if trainer.unit == "patient" else task.examples.study
    found: dict[int, list[int]] = {}
    studies: dict[int, set[int]] = {}
    for row in task.rows:
        used = studies.setdefault(int(task.examples.patient[row]), set())
        study = int(task.examples.study[row])
        if trainer.unit == "patient" or study in used or len(used) < trainer.max_records_per_patient:
            used.add(study)
            found.setdefault(int(owners[row]), []).append(int(row))
    return found
