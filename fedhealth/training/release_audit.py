"""Checks of what else leaves a site in a private run: scores, names, weights; and of the books that pay for it.

Scores that were released once are never drawn again. The ledger ends a run, and all runs, within the budget.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
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
from fedhealth.privacy.mechanisms.histogram_release import SUBGROUP_PREFIX
from fedhealth.privacy.mechanisms.noised_counts import decode_counts
from fedhealth.training.audit_bench import AuditBench
from fedhealth.training.release_records import ReleaseRecords

if TYPE_CHECKING:
    from fedhealth.training.client_dp_trainer import ClientDPTrainer
    from fedhealth.training.dpsgd_trainer import DPSGDTrainer

_ROUNDS = 2  # of the run whose budget is spent
_COUNTS = 2000  # of patients, for the weights
_HISTOGRAM, _VARIABLES = (2, 60), 2


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
    rounds, share = ["train"] * (_ROUNDS + trainer.spare_rounds + 1), trainer.score_release_share
    scores = ["evaluate"] * (math.ceil(1 / share) + 2) if share else []
    for name, in_many_runs, purposes in (
        ("a run", False, [*scores[:1], *rounds]),
        ("the training of all runs", True, rounds),
        ("the scores of all runs", True, scores),
    ):
        trainer.budget = replace(budget, lifetime_epsilon=target) if in_many_runs else budget
        place = replace(bench.accounting, rounds=_ROUNDS, folder=bench.accounting.folder / name)
        events = _book_until_refused(bench, trainer, place, purposes, in_many_runs)
        within = not events or is_within_target(events, target, trainer.delta)
        yield check_fact(f"the ledger ends {name} within epsilon", within, f"{len(events)} releases were booked")


def _book_until_refused(
    bench: AuditBench, trainer: DPSGDTrainer, place: AccountingContext, purposes: list[str], in_many_runs: bool
) -> list[tuple[float, float, int]]:
    """Book rounds and scores, of one run or each of its own, until one is refused; return what was booked."""
    plan = trainer.make_plan(bench.own_task, place)
    booked: list[PrivacyEvent] = []
    with trainer.budget.open_ledger(place.folder) as ledger:
        for number, purpose in enumerate(purposes, 1):
            run = f"audit-end-{number}" if in_many_runs else "audit-end"
            event = plan.round_event if purpose == "train" else plan.score_release_event
            assert event is not None  # noqa: S101 - without scores no purpose is an evaluation
            try:
                trainer.budget.book(ledger, plan, replace(place, run=run, round=number, purpose=purpose), event)
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
    kinds = _make_score_tables(event, trainer.subgroup_release_share)
    held_out = {name: table for tables, _ in kinds.values() for name, table in tables.items()}
    releases = []
    for number in (1, 2):
        place = replace(accounting, run=f"audit-scores-{number}")
        releases.append(trainer.release_statistics(held_out, bench.own_task, place))
        again = trainer.release_statistics(held_out, bench.own_task, place)
        same = all(np.array_equal(releases[-1][name], again[name]) for name in releases[-1])
        yield check_fact("scores are drawn once", same, "a repeated request got other noise")
    noises = {name: [decode_counts(each[name]).ravel() for each in releases] for name in held_out}
    for kind, (tables, std) in kinds.items():
        drawn = np.concatenate([part for name in tables for part in noises[name]])
        yield check_noise_size(kind, [drawn[None]], std, known_mean=True)
    yield replace(check_single_use([*chain(*noises.values())]), name="no noise of scores is used twice")


def _make_score_tables(event: PrivacyEvent, part: float) -> dict[str, tuple[dict[str, np.ndarray], float]]:
    """Return empty tables of scores of all patients and, if they have a part, by subgroup; and each kind's noise.

    A unit moves one count in each column of a table. Its squared distance, divided by the variance, is each kind's
    part of the event.
    """
    sides = [f"{split}.{side}" for split in ("validation", "test") for side in ("positives", "negatives")]
    std = event.noise_multiplier * math.sqrt(_HISTOGRAM[0])
    all_patients: dict[str, np.ndarray] = {name: np.zeros(_HISTOGRAM, np.int64) for name in sides}
    found = {"scores": (all_patients, std / math.sqrt(1 - part))}
    if part:
        groups: dict[str, np.ndarray] = {
            f"{SUBGROUP_PREFIX}{number}": np.zeros((2, 2, *_HISTOGRAM), np.int64) for number in range(_VARIABLES)
        }
        found["scores by subgroup"] = (groups, std * math.sqrt(_VARIABLES / part))
    return found
