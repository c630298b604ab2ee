"""Book in a restored or damaged ledger what its lost lines had booked, or may have booked; never less.

What was lost is known from the record in the newest statement that anybody shows (see `ledger_record`). One more
request of the latest run may have been on its way when the machine was lost, so each event that it may have booked
counts as spent (a round and the release of the scores: which one costs more depends on what is booked already). Where
the record does not reach back far enough, or cannot be read, the whole life budget counts as spent: no more than that
can have been booked.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from fedhealth.privacy.accounting.accountant import PrivacyEvent, calibrate_noise_multiplier
from fedhealth.privacy.accounting.budget import write_spending_summary
from fedhealth.privacy.accounting.ledger import Ledger
from fedhealth.privacy.accounting.ledger_entry import SPENT_KINDS, LedgerEntry
from fedhealth.privacy.accounting.ledger_folder import get_ledger_path
from fedhealth.privacy.accounting.ledger_record import BookedRun, LedgerRecord, find_common_line
from fedhealth.privacy.accounting.limits import EpsilonLimits, find_lifetime_excess
from fedhealth.privacy.accounting.reservations import RunCost, compute_remaining_cost
from fedhealth.utils.hash_chain import read_hashes, salvage_chain

LOST = "booked in lines that were lost"
IN_FLIGHT = "may have been on its way when the machine was lost"
USED_UP = "the lost lines are unknown: the life budget counts as used up"


@dataclass(frozen=True)
class LedgerRecovery:
    """What a recovery did to one ledger.

    Attributes:
        dataset: its name.
        damaged_copy: the damaged file as it was found; None if the chain was intact.
        booked: the runs for which events were booked as lost.
        is_used_up: whether the life budget counts as used up.

    """

    dataset: str
    damaged_copy: Path | None
    booked: tuple[str, ...]
    is_used_up: bool


def recover_ledger(
    folder: Path, dataset: str, record: LedgerRecord | None, limits: EpsilonLimits, latest: tuple[str, int]
) -> LedgerRecovery:
    """Repair a ledger's chain and book what is lost; a second call books nothing twice.

    Args:
        folder: the site's private folder.
        dataset: its name.
        record: of the newest statement; None if that has none for this ledger.
        limits: of the site's policy: `lifetime_epsilon` and `lifetime_delta`.
        latest: run and counter of the newest statement: one more request of that run counts as spent.

    Raises:
        PrivacyError: another process uses the ledger, or the clock was set back.

    """
    path = get_ledger_path(folder, dataset)
    path.parent.mkdir(parents=True, exist_ok=True)
    damaged = salvage_chain(path)
    with Ledger.open(path) as ledger:
        common = 0 if record is None else find_common_line(record, read_hashes(path))
        if _is_gap(record, common, damaged is not None):
            _use_up_budget(ledger, path, limits)
            return LedgerRecovery(dataset, damaged, (), is_used_up=True)
        booked = [each.run for each in record.runs if _book_lost_run(ledger, each, common)] if record else []
        in_flight = record.releases.get(latest[0]) if record else None
        if in_flight is not None and _book_releases_in_flight(ledger, in_flight, *latest):
            booked.append(latest[0])
        write_spending_summary(ledger, path, limits.lifetime_delta)
        return LedgerRecovery(dataset, damaged, tuple(dict.fromkeys(booked)), is_used_up=False)


def use_up_ledger(folder: Path, dataset: str, limits: EpsilonLimits) -> LedgerRecovery:
    """Repair a ledger's chain and count its whole life budget as spent: nobody can say what it has lost.

    Args:
        folder: the site's private folder.
        dataset: its name; without a file it is created.
        limits: of the site's policy.

    Raises:
        PrivacyError: another process uses the ledger, or the clock was set back.

    """
    path = get_ledger_path(folder, dataset)
    path.parent.mkdir(parents=True, exist_ok=True)
    damaged = salvage_chain(path)
    with Ledger.open(path) as ledger:
        _use_up_budget(ledger, path, limits)
    return LedgerRecovery(dataset, damaged, (), is_used_up=True)


def _is_gap(record: LedgerRecord | None, common: int, is_damaged: bool) -> bool:
    """Return whether lines may be lost that the record does not describe."""
    if record is None:
        return is_damaged
    return common < record.lines and not record.has_all_runs and record.runs[0].last_line > common


def _book_lost_run(ledger: Ledger, lost: BookedRun, common: int) -> bool:
    """Book what a run had booked and this file does not hold; return whether there was anything.

    Lines after the common one were booked after the restore: they are spent too and replace none of the lost ones.
    Only lines of an earlier recovery stand for lost ones.
    """
    held = [entry.mechanism for entry in ledger.entries if _stands_for(entry, lost.run, common)]
    missing = compute_remaining_cost(lost.cost, held)
    ledger.record_lost_event(lost.run, missing, LOST)
    return bool(missing.events)


def _stands_for(entry: LedgerEntry, run: str, common: int) -> bool:
    if entry.run != run or entry.kind not in SPENT_KINDS:
        return False
    return entry.number <= common or entry.kind == "lost"


def _book_releases_in_flight(ledger: Ledger, releases: RunCost, run: str, counter: int) -> bool:
    """Book each of these events unless this was done before, or was interrupted; return whether there was any."""
    reason = f"{IN_FLIGHT} (statement {counter})"
    missing = compute_remaining_cost(releases, [e.mechanism for e in ledger.entries if e.reason == reason])
    ledger.record_lost_event(run, missing, reason)
    return bool(missing.events)


def _use_up_budget(ledger: Ledger, path: Path, limits: EpsilonLimits) -> None:
    """Book one release that costs the whole life budget by itself, unless this was done before."""
    if any(entry.kind == "lost" and entry.reason == USED_UP for entry in ledger.entries):
        return
    noise = calibrate_noise_multiplier(limits.lifetime_epsilon, limits.lifetime_delta, 1.0, 1)
    event = PrivacyEvent(noise * 0.99, 1.0, 1)  # slightly more than the budget, for every accountant
    while not find_lifetime_excess([event], limits):
        event = replace(event, noise_multiplier=event.noise_multiplier * 0.99)
    ledger.record_lost_event("unknown", RunCost("patient", (event,)), USED_UP)
    write_spending_summary(ledger, path, limits.lifetime_delta)
