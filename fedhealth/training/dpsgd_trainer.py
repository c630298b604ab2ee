"""Training that protects each patient (or each study): DP-SGD with one plan for the whole run.

See docs/privacy.md for what is promised. What leaves the site: the update of weights that were noised at every step,
and once, after the last round, noised score histograms. Losses, norms, counts and scores of single rounds stay.
"""

from __future__ import annotations

import io
import itertools
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from fedhealth.config.schema import TaskKind, TrainingConfig
from fedhealth.data.batches import Batch, Examples
from fedhealth.errors import ModelError, PrivacyError
from fedhealth.models.modality_keys import METHOD
from fedhealth.privacy.accounting.accountant import Event
from fedhealth.privacy.accounting.budget import Allowance
from fedhealth.privacy.accounting.plan import PrivacyPlan, Request, bucket
from fedhealth.privacy.accounting.spending import scores_path
from fedhealth.privacy.context import Place
from fedhealth.privacy.engines.base import LossFn, trainable
from fedhealth.privacy.engines.book_keeping import BookKeeping
from fedhealth.privacy.engines.clipping import Clipping
from fedhealth.privacy.engines.dp_optimizer import AfterNoise, NoisyOptimizer
from fedhealth.privacy.engines.opacus_hooks import OpacusHooks
from fedhealth.privacy.engines.oracle import Oracle
from fedhealth.privacy.engines.self_check import MakeEngine, selfcheck
from fedhealth.privacy.engines.step import Physical, private_step
from fedhealth.privacy.mechanisms.gaussian_noise import NoiseSource
from fedhealth.privacy.mechanisms.histogram_release import PREFIX, noised, noised_tables, one_study_each
from fedhealth.privacy.mechanisms.poisson_sampler import PatientSampler, PhysicalBatch
from fedhealth.training.step_checkpoint import Progress
from fedhealth.training.trainer import (
    Correction,
    FitReport,
    Statistics,
    Task,
    Workload,
    optimizer_of,
    progress_folder,
    row_losses,
    steps_of,
)
from fedhealth.types import State
from fedhealth.utils.atomic_io import write_atomic

ENGINES: Mapping[str, MakeEngine] = {"bk": BookKeeping, "opacus": OpacusHooks, "oracle": Oracle}
_CHECKED_UNITS = 6

log = logging.getLogger("fedhealth.site")


class PatientTrainer:
    """DP-SGD over patients or studies.

    Args:
        dataset: its name, for the ledger.
        epsilon: of the whole run, everything that leaves included.
        delta: of the guarantee; null takes 1 / (10 x bucketed cohort).
        unit: `patient`, or `record` to protect each study on its own.
        clipping: `automatic`, `flat` or `tower` (a share of the bound for each modality).
        bound: largest L2 norm of one unit's contribution to a step.
        engine: `bk`, `opacus` or `oracle`.
        rate: probability with which a unit is in a step's batch; null takes training.batch_size / bucketed cohort.
        max_rows: rows of one patient used in a step.
        physical_rows: rows computed at a time; changes memory, not the result.
        sigma: more noise than epsilon needs, if wanted.
        scores: share of the budget for the final model's score histograms; 0 releases none.
        max_epsilon: the site's limit for one run; null for none.
        life_epsilon: the site's limit for all runs on the data set; null for none.
        min_sigma: the least noise that the site accepts.
        min_cohort: the fewest units that the site trains on.

    """

    private = True

    def __init__(
        self,
        dataset: str,
        epsilon: float,
        delta: float | None = None,
        unit: Literal["patient", "record"] = "patient",
        clipping: Literal["automatic", "flat", "tower"] = "automatic",
        bound: float = 1.0,
        engine: str = "bk",
        rate: float | None = None,
        max_rows: int = 4,
        physical_rows: int = 256,
        sigma: float | None = None,
        scores: float = 0.1,
        max_epsilon: float | None = None,
        life_epsilon: float | None = None,
        min_sigma: float = 0.0,
        min_cohort: int = 10,
    ) -> None:
        if unit not in ("patient", "record"):
            raise PrivacyError(
                f"privacy.unit: there is no unit {unit!r} here", "Use patient, record or privacy=client."
            )
        if engine not in ENGINES:
            raise PrivacyError(f"privacy.engine: there is no engine {engine!r}", f"Use one of {', '.join(ENGINES)}.")
        if rate is not None and not 0 < rate <= 1:
            raise PrivacyError(f"privacy.rate: {rate} is not in (0, 1]", "Leave it null, or give a probability.")
        self.allowance = Allowance(
            dataset, min(epsilon, max_epsilon or math.inf), life_epsilon or math.inf, min_sigma, max(2, min_cohort)
        )
        self.epsilon, self.delta, self.unit = epsilon, delta, unit
        self.clipping, self.bound, self.rate, self.sigma = clipping, bound, rate, sigma
        self.make_engine, self.step = ENGINES[engine], private_step
        self.max_rows, self.physical_rows, self.scores = max_rows, physical_rows, scores

    def objections(self, task: Task, place: Place) -> list[str]:
        """Return why this site cannot take part; what is said holds no number that depends on a patient."""
        try:
            plan = self.plan(task, place)
            self.make_engine(task.model.train(), _loss_of(task.kind), plan.clipping)
            self.allowance.check(plan, place)
        except PrivacyError as fault:
            log.warning("declined: %s", fault)
            return [fault.problem]
        try:
            batch, owners, losses = self.sample(task, plan)
            selfcheck(self.make_engine, task.model, losses, plan.clipping, batch, owners)
        except PrivacyError as fault:
            log.warning("declined: %s", fault)
            return ["the gradient engine fails its self-check on this model (the site's log says where)"]
        return []

    def plan(self, task: Task, place: Place) -> PrivacyPlan:
        """Return the whole run's plan at this site.

        Raises:
            PrivacyError: there is none within the run's target and the site's policy.

        """
        return self._plan(len(self._units(task)), task.model.modalities, task.training, place.rounds)

    def foresee(self, work: Workload, training: TrainingConfig, rounds: int) -> tuple[Allowance, PrivacyPlan]:
        """Return what the whole run would spend.

        Raises:
            PrivacyError: there is no plan within the run's target and the site's policy.

        """
        units = work.patients if self.unit == "patient" else work.studies
        return self.allowance, self._plan(units, work.modalities, training, rounds)

    def _plan(self, units: int, modalities: frozenset[str], training: TrainingConfig, rounds: int) -> PrivacyPlan:
        towers = tuple(f"towers.{name}" for name in sorted(modalities)) if self.clipping == "tower" else ()
        if units < self.allowance.min_cohort:
            units = 1  # below the minimum; which number below it is nobody's business
        size = bucket(units)
        request = Request(
            unit=self.unit,
            epsilon=self.epsilon,
            rate=self.rate or min(1.0, training.batch_size / size),
            steps=steps_of(training, size),
            rounds=rounds,
            clipping=Clipping(self.bound, self.clipping, towers),
            sigma=self.sigma,
            delta=self.delta,
            max_rows=self.max_rows,
            scores=self.scores,
        )
        return self.allowance.plan(request, units)

    def weights(self, rows: Mapping[str, int]) -> dict[str, int]:
        """Return coarse training weights: rounded down to a power of sqrt 2."""
        return {tower: bucket(count) if count else 0 for tower, count in rows.items()}

    def fit(self, task: Task, place: Place | None = None) -> FitReport:
        """Train for one round; it is booked before the first step.

        Raises:
            PrivacyError: nothing is left to spend, or the ledger is damaged or in use.
            ModelError: the weights are no longer finite.

        """
        if place is None:
            raise PrivacyError("private training needs a ledger", "Say where it happens: fit(task, place).")
        plan, model, training = self.plan(task, place), task.model.train(), task.training
        parameters = trainable(model)
        plain = optimizer_of(training, parameters)
        progress = Progress(progress_folder(task, place), model, plain, (plan, place.run, place.round))
        engine = self.make_engine(model, _loss_of(task.kind), plan.clipping)
        units = self._units(task)
        sampler = PatientSampler(
            units, rate=plan.rate, steps=plan.steps, max_rows=plan.max_rows, physical_rows=self.physical_rows
        )
        device = next(model.parameters()).device
        with self.allowance.open(place) as ledger, torch.random.fork_rng(devices=_cuda(device)):
            booked = self.allowance.book(ledger, plan, place, place.round, plan.round_event).event
            torch.manual_seed(task.seed)  # dropout alone: sampling and noise never depend on it
            progress.take_up()
            correct = _after_noise(task.correct, model, progress.step) if task.correct else None
            optimizer = NoisyOptimizer(plain, plan, after_noise=correct)
            optimizer.allow(booked)
            losses = []
            for step, some in islice(enumerate(sampler, 1), progress.step, None):
                losses.append(self.step(engine, optimizer, _loaded(task.examples, some, device)))
                progress.done(step, 0.0)
        progress.end()
        if not all(bool(p.isfinite().all()) for p in parameters.values()):
            raise ModelError("The private training diverged.", "Lower the learning rate.")
        seen = torch.cat([torch.zeros(1), *losses])
        return FitReport(plan.steps, len(task.rows), float(seen.sum()) / max(1, len(seen) - 1))

    def scored(self, examples: Examples, rows: np.ndarray) -> np.ndarray:
        """Return the rows of a held-out split that count: one study of each patient."""
        return rows if self.unit == "record" else one_study_each(examples.study, examples.patient, rows)

    def protect(self, update: State, task: Task, place: Place) -> State:
        """Return the update; what is not made of noised gradients (running statistics) is zero."""
        names = trainable(task.model)
        return {n: v if n in names or n.startswith(METHOD) else np.zeros_like(v) for n, v in update.items()}

    def release(self, statistics: Statistics, task: Task, place: Place) -> Statistics:
        """Return the final model's score histograms, noised and booked once a run; nothing of single rounds."""
        if any(name.startswith(PREFIX) for name in statistics):
            return self._described(statistics, task, place)
        held_out = {name: counts for name, counts in statistics.items() if name.startswith(("validation.", "test."))}
        if not self.scores or not any(name.startswith("test.") for name in held_out):
            return {}
        plan = self.plan(task, place)
        if plan.scores is None:
            return {}
        event = plan.scores
        return self._once(plan, event, place, lambda: noised(held_out, event.sigma, NoiseSource()))

    def _described(self, counts: Statistics, task: Task, place: Place) -> Statistics:
        """Return counts of patients, noised and booked: the whole of the run's epsilon goes into them."""
        units = len(np.unique(task.examples.patient))
        request = Request(self.unit, self.epsilon, 1.0, 1, 1, Clipping(1.0), self.sigma, self.delta)
        plan = self.allowance.plan(request, units)
        # without one study, a patient may count by another: one count less in one bin, one more in another
        counts_moved = 1 if self.unit == "patient" else 2
        return self._once(
            plan, plan.round_event, place, lambda: noised_tables(counts, plan.sigma, counts_moved, NoiseSource())
        )

    def _once(self, plan: PrivacyPlan, event: Event, place: Place, draw: Callable[[], Statistics]) -> Statistics:
        """Book, draw and keep a run's one noisy release; asked again, the same: no second draw to average."""
        kept = scores_path(place.folder, place.run)
        if not kept.is_file():
            unseen = replace(place, released=False)  # what is released is in that file
            with self.allowance.open(place) as ledger:
                self.allowance.book(ledger, plan, unseen, place.rounds + 1, event)
                _keep(kept, draw())
        with np.load(kept, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}

    def _units(self, task: Task) -> list[list[int]]:
        """Return the training rows of each unit."""
        of_row = task.examples.patient if self.unit == "patient" else task.examples.study
        found: dict[int, list[int]] = {}
        for row in task.rows:
            found.setdefault(int(of_row[row]), []).append(int(row))
        return list(found.values())

    def sample(self, task: Task, plan: PrivacyPlan) -> tuple[Batch, list[int], LossFn]:
        """Return a few units' rows as a batch, the unit of each row, and the loss: what checks and audits look at."""
        units = self._units(task)
        chosen = [units[i] for i in np.linspace(0, len(units) - 1, min(_CHECKED_UNITS, len(units))).astype(int)]
        rows = [row for unit in chosen for row in unit[: plan.max_rows]]
        owners = [number for number, unit in enumerate(chosen) for _ in unit[: plan.max_rows]]
        return _batch(task.examples, rows, next(task.model.parameters()).device), owners, _loss_of(task.kind)


def _loss_of(kind: TaskKind) -> LossFn:
    def losses(model: nn.Module, batch: Batch) -> Tensor:
        return row_losses(model(batch), batch["targets"], kind)

    return losses


def _after_noise(correct: Correction, model: nn.Module, done: int) -> AfterNoise:
    parameters, steps = trainable(model), itertools.count(done)
    return lambda _: correct(next(steps), parameters)


def _batch(examples: Examples, rows: Sequence[int], device: torch.device) -> Batch:
    chosen = np.asarray(rows, np.int64)
    batch = examples.batch(chosen) | {"targets": examples.targets(chosen)}
    return {name: value.to(device) for name, value in batch.items()}


def _loaded(examples: Examples, physical: Iterable[PhysicalBatch], device: torch.device) -> Physical:
    """Yield the physical batches, each loaded when its turn comes."""
    for part in physical:
        yield _batch(examples, part.rows, device), part.patients


def _cuda(device: torch.device) -> list[torch.device]:
    return [device] if device.type == "cuda" else []


def _keep(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **dict(arrays))
    write_atomic(path, content.getvalue())
