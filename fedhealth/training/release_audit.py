"""Checks of what else leaves a site in a private run: scores, names, weights; and of the books that pay for it.

Scores that were released once are never drawn again. The ledger ends a run, and all runs, within the budget.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from fedhealth.errors import PrivacyError
from fedhealth.privacy.accounting.accountant import PrivacyEvent
from fedhealth.privacy.accounting.booking import find_open_booking
from fedhealth.privacy.accounting.ledger import verify_ledger
from fedhealth.privacy.accounting.ledger_folder import get_ledger_path
from fedhealth.privacy.auditing.independent_numbers import is_within_target
from fedhealth.privacy.auditing.noise_checks import check_noise_size, check_single_use
from fedhealth.privacy.auditing.release_checks import AuditCheck, check_fact
from fedhealth.privacy.context import AccountingContext
from fedhealth.privacy.mechanisms.noised_counts import decode_counts
from fedhealth.training.audit_bench import AuditBench
from fedhealth.training.release_records import ReleaseRecords

if TYPE_CHECKING:
    from fedhealth.training.client_dp_trainer import ClientDPTrainer
    from fedhealth.training.dpsgd_trainer import DPSGDTrainer

_ROUNDS = 2  # of the run whose budget is spent
_COUNTS = 2000  # of patients, for the weights
_HISTOGRAM = (2, 60)


def check_budget_end(bench: AuditBench) -> Iterator[AuditCheck]:
    """Check that the ledger stops a run, and all runs together, before they cost more than their epsilon."""
    target = bench.trainer.budget.epsilon
    trainer = bench.make_trainer(
        epsilon=target,
        sample_rate=1.0,
        spare_rounds=bench.trainer.spare_rounds,
        score_release_share=bench.trainer.score_release_share,
    )
    budget = replace(trainer.budget, epsilon=target, lifetime_delta=trainer.delta)
    for name, limits in (
        ("the ledger ends a run within its epsilon", budget),
        ("the ledger ends all runs within the lifetime epsilon", replace(budget, lifetime_epsilon=target)),
    ):
        trainer.budget = limits
        is_lifetime = math.isfinite(limits.lifetime_epsilon)
        events = _book_until_refused(bench, trainer, is_lifetime)
        within = not events or is_within_target(events, target, trainer.delta)
        yield check_fact(name, within, f"{len(events)} releases were booked")


def _book_until_refused(bench: AuditBench, trainer: DPSGDTrainer, in_many_runs: bool) -> list[tuple[float, float, int]]:
    """Book the scores and rounds of a short run, or of several, until one is refused; return what was booked."""
    folder = bench.accounting.folder / ("life" if in_many_runs else "run")
    accounting = replace(bench.accounting, run="audit-end", rounds=_ROUNDS, folder=folder)
    plan = trainer.make_plan(bench.own_task, accounting)
    booked: list[PrivacyEvent] = []
    scores = ["evaluate"] * (plan.score_release_event is not None)
    rounds = _ROUNDS + plan.spare_rounds + 1
    purposes = [*scores, "train"] * rounds if in_many_runs else [*scores, *["train"] * rounds]
    with trainer.budget.open_ledger(folder) as ledger:
        for number, purpose in enumerate(purposes, 1):
            run = f"audit-end-{number}" if in_many_runs else accounting.run
            place = replace(accounting, run=run, round=number, purpose=purpose)
            event = plan.round_event if purpose == "train" else plan.score_release_event
            assert event is not None  # noqa: S101 - purposes has no evaluation without it
            try:
                trainer.budget.book(ledger, plan, place, event)
            except PrivacyError:
                break
            booked.append(event)
            if opened := find_open_booking(ledger.entries, run, purpose):
                ledger.update_booking("fail", opened, number)
    return [(each.noise_multiplier, each.sample_rate, each.steps) for each in booked]


def check_weights(trainer: DPSGDTrainer | ClientDPTrainer) -> AuditCheck:
    """Check that the weights in the sum, which leave the site, are too coarse to count patients."""
    weights = {trainer.compute_aggregation_weights({"image": count})["image"] for count in range(1, _COUNTS)}
    most = 2 * math.ceil(math.log2(_COUNTS)) + 1  # powers of the root of two
    return check_fact("aggregation weights are coarse", len(weights) <= most, f"{len(weights)} of {_COUNTS - 1} differ")


def check_scored_rows(bench: AuditBench) -> AuditCheck:
    """Check that the scores count no patient with more studies than their noise is made for."""
    examples, rows = bench.task.examples, bench.task.rows
    scored = bench.trainer.select_scored_rows(examples, rows)
    most = 1 if bench.trainer.unit == "patient" else bench.trainer.max_records_per_patient
    pairs = {(int(examples.patient[row]), int(examples.study[row])) for row in scored}
    highest = max(Counter(patient for patient, _ in pairs).values(), default=0)
    return check_fact("scores count a patient once", highest <= most, f"{highest} studies")


def check_update_names(bench: AuditBench) -> AuditCheck:
    """Check that an update carries trained weights, and nothing that the trainer adds to it."""
    model = bench.task.model
    update = {name: np.ones(value.shape, np.float32) for name, value in model.state_dict().items()}
    left = bench.trainer.protect_update(update, bench.task, bench.accounting)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    wrong = sorted(name for name, value in left.items() if name not in update or (name not in trained and value.any()))
    return check_fact("an update carries trained weights only", not wrong, f"{wrong[:2]} left")


def count_bookings(trainer: ReleaseRecords, accounting: AccountingContext) -> int:
    """Return how many events the trainer's ledger holds."""
    entries = verify_ledger(get_ledger_path(accounting.folder, trainer.budget.dataset))
    return sum(entry.kind == "book" for entry in entries)


def check_bookings(trainer: ReleaseRecords, accounting: AccountingContext, event: PrivacyEvent) -> Iterator[AuditCheck]:
    """Check that two rounds were booked and released one to one, and that nothing else can be released."""
    entries = verify_ledger(get_ledger_path(accounting.folder, trainer.budget.dataset))
    booked = [entry for entry in entries if entry.kind == "book" and entry.run == accounting.run]
    paid = [entry.booking for entry in entries if entry.kind == "release" and entry.run == accounting.run]
    right = [entry.event for entry in booked] == [event, event] and paid == [entry.number for entry in booked]
    yield check_fact("every round is booked and released once", right, f"{len(booked)} bookings, {len(paid)} releases")
    try:
        trainer.record_release(accounting, "words without a booking")
    except PrivacyError:
        refused = True
    else:
        refused = False
    yield check_fact("a release without a booking is refused", refused, "it was recorded")


def check_scores(bench: AuditBench) -> Iterator[AuditCheck]:
    """Check the noise of the final scores, and that rounds release no statistics."""
    trainer = copy.copy(bench.trainer)
    trainer.budget = replace(trainer.budget, lifetime_epsilon=math.inf, max_failures=None)
    counts = np.zeros(_HISTOGRAM, np.int64)
    single = {"train.loss": np.ones(1, np.int64), "train.examples": np.ones(1, np.int64)}
    accounting = replace(bench.accounting, purpose="evaluate")
    left = trainer.release_statistics(single | {"validation.positives": counts}, bench.own_task, accounting)
    yield check_fact("statistics of single rounds stay", not left, f"{sorted(left)} left")
    event = trainer.make_plan(bench.own_task, accounting).score_release_event
    if event is None:
        return
    held_out = {f"{split}.{side}": counts for split in ("validation", "test") for side in ("positives", "negatives")}
    noises: list[np.ndarray] = []
    for number in (1, 2):
        place = replace(accounting, run=f"audit-scores-{number}")
        released = trainer.release_statistics(held_out, bench.own_task, place)
        again = trainer.release_statistics(held_out, bench.own_task, place)
        same = all(np.array_equal(released[name], again[name]) for name in released)
        yield check_fact("scores are drawn once", same, "a repeated request got other noise")
        noises += [decode_counts(released[name]).ravel() for name in held_out]
    std = event.noise_multiplier * math.sqrt(_HISTOGRAM[0])
    yield check_noise_size("scores", [np.concatenate(noises)[None]], std, known_mean=True)
    yield replace(check_single_use(noises), name="no noise of scores is used twice")
