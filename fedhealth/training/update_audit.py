"""Audit client-level privacy: through the trainer's own `fit`, `protect_update`, releases and a ledger of its own.

The mechanism is the clipped and noised update, so the audit gives it updates that it knows: zeros, whose release is the
noise; one far above the bound and one below; one that is not finite. The training before it is of a few synthetic
patients. Nothing here depends on a patient, and the site's own ledger stays as it is.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedhealth.errors import PrivacyError
from fedhealth.privacy.auditing.independent_numbers import check_plan, is_within_target
from fedhealth.privacy.auditing.noise_checks import check_noise_size, check_single_use, check_tails
from fedhealth.privacy.auditing.release_checks import (
    AuditCheck,
    AuditFinding,
    check_contribution,
    check_fact,
    judge_measurements,
)
from fedhealth.privacy.context import AccountingContext
from fedhealth.training.audit_gate import list_failures_once
from fedhealth.training.audit_scratch import open_scratch_folder
from fedhealth.training.check_batch import make_check_examples
from fedhealth.training.fit_recording import find_booking
from fedhealth.training.noise_audit import hold_random_state
from fedhealth.training.release_audit import check_bookings, check_weights, count_bookings
from fedhealth.training.trainer import FitReport, TrainingTask
from fedhealth.types import State

if TYPE_CHECKING:
    from fedhealth.training.client_dp_trainer import ClientDPTrainer

_LITTLE_NOISE = 1e4  # epsilon at which clipping shows in one release
_UNITS, _ROUNDS = 4, 2
_VALUES, _MOST_OF_TENSOR = 40_000, 1 << 14  # of an update
_SIZES = (("far above the bound", 100.0), ("a little above the bound", 1.5), ("below the bound", 0.1))


def audit_updates(
    trainer: ClientDPTrainer, task: TrainingTask, accounting: AccountingContext
) -> tuple[AuditFinding, ...]:
    """Audit a client-level trainer at one site; the task's model stays as it is.

    Args:
        trainer: as configured for the run.
        task: of the run; it gives the model and the shapes of its inputs.
        accounting: gives the number of rounds; nothing is booked there.

    """
    return judge_measurements(lambda: _measure(trainer, task, accounting))


def _measure(trainer: ClientDPTrainer, task: TrainingTask, accounting: AccountingContext) -> list[AuditCheck]:
    checks = []
    with open_scratch_folder() as scratch:
        place = replace(accounting, folder=Path(scratch), study=None)
        try:
            for check in _UpdateAudit(trainer, task, place).run_checks():
                checks.append(check)
        except Exception as fault:
            checks.append(
                check_fact("private training runs under the audit", False, f"{type(fault).__name__}: {fault}")
            )
    return checks


def list_audit_failures(trainer: ClientDPTrainer, task: TrainingTask, accounting: AccountingContext) -> list[str]:
    """Return which checks fail; once per process and plan."""
    return list_failures_once(trainer, task, accounting, lambda: audit_updates(trainer, task, accounting))


class _UpdateAudit:
    """The checks of one audit.

    Args:
        trainer: as configured for the run.
        task: of the run.
        accounting: of the audit, with a scratch folder.

    """

    def __init__(self, trainer: ClientDPTrainer, task: TrainingTask, accounting: AccountingContext) -> None:
        self.trainer, self.accounting = trainer, accounting
        examples = make_check_examples(task.model, task.examples, task.kind, 1, _UNITS)
        training = replace(task.training, local_steps=1, local_epochs=None, batch_size=2)
        self.task = replace(task, examples=examples, rows=np.arange(_UNITS), training=training)
        self.shapes = {n: p.shape for n, p in task.model.named_parameters() if p.requires_grad}

    def run_checks(self) -> Iterator[AuditCheck]:
        """Yield every check."""
        trainer, rounds = self.trainer, self.accounting.rounds + self.trainer.spare_rounds
        plan = trainer.make_plan(self.accounting)
        yield from check_plan(plan, trainer.budget.epsilon, trainer.delta, 1.0, rounds)
        yield from self._check_noise(plan.noise_multiplier)
        yield from self._check_clipping()
        yield from self._check_payments()
        yield from self._check_budget_end()
        yield check_weights(trainer)
        counts = {"train.loss": np.ones(1, np.int64), "test.positives": np.ones((1, 9), np.int64)}
        left = trainer.release_statistics(counts, self.task, replace(self.accounting, purpose="evaluate"))
        yield check_fact("no statistics leave", not left, f"{sorted(left)} left")

    def _make_trainer(self, epsilon: float, noise_multiplier: float | None) -> ClientDPTrainer:
        """Return the trainer with another epsilon, within a scratch budget."""
        trainer = copy.copy(self.trainer)
        trainer.budget = replace(
            trainer.budget, epsilon=epsilon, lifetime_epsilon=math.inf, min_noise_multiplier=0.0, max_failures=None
        )
        trainer.epsilon, trainer.noise_multiplier = epsilon, noise_multiplier
        return trainer

    def _fit(self, trainer: ClientDPTrainer, accounting: AccountingContext) -> tuple[FitReport, bool]:
        """Train, and return the report and whether a booking was on the disk before the first step."""
        booked: list[bool] = []

        def look_up_booking(step: int, parameters: object) -> None:
            booked.append(find_booking(trainer, accounting) is not None)

        task = replace(self.task, model=copy.deepcopy(self.task.model), gradient_hook=look_up_booking)
        return trainer.fit(task, accounting), bool(booked) and booked[0]

    def _make_update(self, norm: float) -> State:
        """Return an update of a random direction; large tensors are cut, small models get one more."""
        random = np.random.default_rng(0)
        sizes = {name: (min(math.prod(shape), _MOST_OF_TENSOR),) for name, shape in self.shapes.items()}
        if missing := max(0, _VALUES - sum(size for (size,) in sizes.values())):
            sizes["audit"] = (missing,)
        drawn = {name: random.standard_normal(size) for name, size in sizes.items()}
        length = math.sqrt(sum(float(each @ each) for each in drawn.values()))
        return {name: (each * (norm / length)).astype(np.float32) for name, each in drawn.items()}

    def _check_noise(self, noise_multiplier: float) -> Iterator[AuditCheck]:
        """Check the run's own noise in two rounds, in a repetition of one, and in that of a restored machine."""
        trainer, silent = self._make_trainer(_LITTLE_NOISE, noise_multiplier), self._make_update(0.0)
        std = noise_multiplier * trainer.clipping.max_grad_norm
        releases, reports, firsts, counts = [], [], [], []
        with hold_random_state() as restart:
            for round_, folder in ((1, "old"), (2, "old"), (2, "old"), (2, "new")):
                place = replace(
                    self.accounting, run="noise", round=round_, rounds=_ROUNDS, folder=self.accounting.folder / folder
                )
                restart()
                report, is_first = self._fit(trainer, place)
                releases.append(trainer.protect_update(silent, self.task, place))
                if len(releases) <= _ROUNDS:
                    trainer.record_release(place, f"words {len(releases)}")
                if len(releases) == _ROUNDS:
                    yield from check_bookings(trainer, place, trainer.make_plan(place).round_event)
                reports.append(report.loss)
                firsts.append(is_first)
                counts.append(count_bookings(trainer, place))
        yield check_fact("a released round that is trained again is booked again", counts == [1, 2, 3, 1], f"{counts}")
        yield check_fact("a round is booked before its first step", all(firsts), "the ledger had no open booking")
        yield check_fact("no loss is reported", all(map(math.isnan, reports)), "training reports a loss")
        yield check_fact("an update has no names of its own", {*silent} == {*releases[0]}, f"{sorted(releases[0])[:3]}")
        for name in silent:
            yield check_noise_size(name, [each[name][None] for each in releases], std, known_mean=True)
        joined = [_join_arrays(each) for each in releases]
        yield from check_tails("updates", np.concatenate(joined) / std)
        yield check_single_use(joined)

    def _check_clipping(self) -> Iterator[AuditCheck]:
        """Check what leaves of known updates, under little noise."""
        trainer, bound = self._make_trainer(_LITTLE_NOISE, None), self.trainer.clipping.max_grad_norm
        for number, (name, size) in enumerate(_SIZES):
            update = self._make_update(size * bound)
            found, std = self._release(trainer, f"clip-{number}", update)
            planned = _join_arrays(update) * min(1.0, 1 / size)
            yield check_contribution(f"contribution of an update {name}", found, planned, std, bound)
        update = self._make_update(bound)
        first = next(iter(update))
        update[first] = np.full_like(update[first], np.nan)
        found, std = self._release(trainer, "clip-impossible", update)
        yield check_contribution("an update that is not finite is noise", found, 0 * found, std, bound)

    def _release(self, trainer: ClientDPTrainer, run: str, update: State) -> tuple[np.ndarray, float]:
        """Return the release of an update, and the deviation of its noise."""
        place = replace(self.accounting, run=run, round=1, rounds=1)
        self._fit(trainer, place)
        std = trainer.make_plan(place).noise_multiplier * trainer.clipping.max_grad_norm
        return _join_arrays(trainer.protect_update(update, self.task, place)), std

    def _check_payments(self) -> Iterator[AuditCheck]:
        """Check that nothing leaves without a booking, nor under one that was released."""
        trainer, update = self._make_trainer(_LITTLE_NOISE, None), self._make_update(1.0)
        place = replace(self.accounting, run="payments", round=1, rounds=_ROUNDS)

        def protect_update() -> object:
            return trainer.protect_update(update, self.task, place)

        yield _check_refusal("an update without a booking stays", protect_update)
        self._fit(trainer, place)
        trainer.record_release(place, "words")
        yield _check_refusal("a released booking pays for no other update", protect_update)

    def _check_budget_end(self) -> Iterator[AuditCheck]:
        """Check that training is refused before a run costs more than its epsilon."""
        target = self.trainer.budget.epsilon
        trainer, booked = self._make_trainer(target, None), []
        for number in range(1, _ROUNDS + trainer.spare_rounds + 2):
            place = replace(self.accounting, run="end", round=number, rounds=_ROUNDS)
            event = trainer.make_plan(place).round_event
            try:
                self._fit(trainer, place)
            except PrivacyError:
                break
            trainer.record_release(place, f"words {number}")
            booked.append((event.noise_multiplier, event.sample_rate, event.steps))
        within = is_within_target(booked, target, trainer.delta)
        yield check_fact("the ledger ends a run within its epsilon", within, f"{len(booked)} rounds were trained")


def _check_refusal(name: str, call: Callable[[], object]) -> AuditCheck:
    try:
        call()
    except PrivacyError:
        return check_fact(name, True, "it was refused")
    return check_fact(name, False, "it left")


def _join_arrays(arrays: State) -> np.ndarray:
    return np.concatenate([arrays[name].astype(np.float64).ravel() for name in sorted(arrays)])
