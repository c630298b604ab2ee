"""Bugs in the books, and in what leaves besides updates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import torch

from benchmarks.mutants.subject import Bugs
from fedhealth.privacy import statistics_release
from fedhealth.privacy.accounting import accountant, booking, budget, limits, plan
from fedhealth.privacy.engines.dp_optimizer import NoisyOptimizer
from fedhealth.privacy.mechanisms.histogram_release import noise_histograms
from fedhealth.training.dpsgd_trainer import DPSGDTrainer
from fedhealth.training.private_batches import build_loss_fn, load_unit_batch


@contextmanager
def _book_one_step() -> Iterator[None]:
    allow = NoisyOptimizer.allow_steps

    def allow_all(self: Any, event: Any) -> None:
        allow(self, event)
        self._allowed_steps = self._plan.steps

    event = property(lambda self: accountant.PrivacyEvent(self.noise_multiplier, self.sample_rate, 1))
    with (
        patch.object(plan.PrivacyPlan, "round_event", event),
        patch.object(NoisyOptimizer, "allow_steps", allow_all),
    ):
        yield


def pay_again() -> Any:
    """Let a booking whose release has left pay for another one."""
    book = budget.PrivacyBudget.book

    def find_or_book(self: Any, ledger: Any, made: Any, accounting: Any, event: Any) -> Any:
        for each in booking.find_bookings(ledger.entries, accounting.run, accounting.purpose):
            if each.rounds[-1] == accounting.round and each.entry.event == event:
                return each.entry
        return book(self, ledger, made, accounting, event)

    return patch.object(budget.PrivacyBudget, "book", find_or_book)


def _draw_scores_anew() -> Any:
    def release(spent: Any, made: Any, event: Any, accounting: Any, draw: Callable[[], Any]) -> Any:
        with spent.open_ledger(accounting.folder) as ledger:
            if not booking.find_bookings(ledger.entries, accounting.run, accounting.purpose):
                spent.book(ledger, made, replace(accounting, round=accounting.rounds + 1), event)
        return draw()

    return patch.object(statistics_release, "_release_once", release)


def _mistake_delta() -> Any:
    calibrate = accountant.calibrate_noise_multiplier
    return patch.object(
        plan, "calibrate_noise_multiplier", lambda t, delta, q, steps, others=(): calibrate(t, 1e-3, q, steps, others)
    )


def _score_all_studies() -> Any:
    return patch.object(DPSGDTrainer, "select_scored_rows", lambda self, examples, rows: rows)


def ignore_the_run_limit() -> Any:
    """Book without looking at what the run has spent."""
    return patch.object(limits, "_find_run_excess", lambda *_: "")


def _send_unnoised_gradients() -> Any:
    protect = DPSGDTrainer.protect_update

    def protect_and_leak(self: Any, update: Any, task: Any, accounting: Any) -> Any:
        task.model.zero_grad()
        batch = load_unit_batch(task.examples, list(task.rows), torch.device("cpu"))
        build_loss_fn(task.kind)(task.model, batch).mean().backward()  # type: ignore[no-untyped-call]
        named = {name: p.grad for name, p in task.model.named_parameters() if p.grad is not None}
        extra = {f"method.scaffold.{name}": grad.numpy().copy() for name, grad in named.items()}
        return protect(self, update, task, accounting) | extra

    return patch.object(DPSGDTrainer, "protect_update", protect_and_leak)


def _noise_scores_by_one() -> Any:
    noise = noise_histograms
    return patch.object(statistics_release, "noise_histograms", lambda counts, z, *rest: noise(counts, 1.0, *rest))


BOOKS: Bugs = {
    "a round booked as one step": (_book_one_step, {}),
    "a released booking pays again": (pay_again, {}),
    "scores drawn anew": (_draw_scores_anew, {}),
    "delta mistaken": (_mistake_delta, {}),
    "all studies scored": (_score_all_studies, {}),
    "run limit not checked": (ignore_the_run_limit, {}),
    "un-noised control variates": (_send_unnoised_gradients, {}),
    "score noise of deviation 1": (_noise_scores_by_one, {}),
}
"""Planter, and settings of the trainer, by name."""
