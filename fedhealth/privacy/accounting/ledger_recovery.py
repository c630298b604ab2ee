"""Book in a restored or damaged ledger what its lost lines had booked, or may have booked; never less.

What was lost is known from the records in the statements that anybody shows (see `ledger_record`). Each of them is of a
copy of the ledger that is lost. Of two copies of which neither knew the other's statement, both count in full: each has
released words of its own. One more request of any run that had not ended may have been on its way when a copy was lost,
so each event that it may have booked counts as spent (a round and the release of the scores: which one costs more
depends on what is booked already). Where the records do not reach back far enough, or cannot be read, the whole life
budget counts as spent: no more than that can have been booked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fedhealth.privacy.accounting.accountant import PrivacyEvent, calibrate_noise_multiplier
from fedhealth.privacy.accounting.budget import write_spending_summary
from fedhealth.privacy.accounting.ledger import Ledger
from fedhealth.privacy.accounting.ledger_entry import SPENT_KINDS, LedgerEntry
from fedhealth.privacy.accounting.ledger_folder import get_ledger_path
from fedhealth.privacy.accounting.ledger_record import LedgerRecord, find_common_line
from fedhealth.privacy.accounting.limits import EpsilonLimits, find_lifetime_excess
from fedhealth.privacy.accounting.reservations import RunCost, compute_remaining_cost
from fedhealth.utils.hash_chain import read_hashes, salvage_chain

LOST = "booked in lines that were lost"
IN_FLIGHT = "may have been on its way when the machine was lost"
_MARK = " (statement "
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


@dataclass(frozen=True)
class LostCopy:
    """What a statement tells about a copy of a ledger that is lost, or may be.

    Attributes:
        statement: digest of the statement, in hexadecimal.
        known: digests of the earlier statements that the copy accounted for.
        record: of the ledger; None if the copy had no such ledger.

    """

    statement: str
    known: frozenset[str]
    record: LedgerRecord | None

    def describe_loss(self, what: str) -> str:
        """Return the reason of the lines that a recovery books for this copy."""
        return f"{what}{_MARK}{self.statement})"

    def accounts_for(self, entry: LedgerEntry) -> bool:
        """Return whether a line that a recovery has booked stands for something that this copy had booked, too."""
        return entry.kind == "lost" and (
            entry.reason == self.describe_loss(LOST) or entry.reason.rpartition(_MARK)[2].rstrip(")") in self.known
        )


def recover_ledger(folder: Path, dataset: str, copies: Sequence[LostCopy], limits: EpsilonLimits) -> LedgerRecovery:
    """Repair a ledger's chain and book what is lost; a second call books nothing twice.

    Args:
        folder: the site's private folder.
        dataset: its name.
        copies: that are lost, the oldest first.
        limits: of the site's policy: `lifetime_epsilon` and `lifetime_delta`.

    Raises:
        PrivacyError: another process uses the ledger, or the clock was set back.

    """
    path = get_ledger_path(folder, dataset)
    path.parent.mkdir(parents=True, exist_ok=True)
    damaged, records = salvage_chain(path), [copy.record for copy in copies if copy.record is not None]
    with Ledger.open(path) as ledger:
        hashes = read_hashes(path)
        if any(_is_gap(each, hashes) for each in records) or (damaged is not None and not records):
            _use_up_budget(ledger, path, limits)
            return LedgerRecovery(dataset, damaged, (), is_used_up=True)
        booked = [run for copy in copies if copy.record for run in _book_lost_copy(ledger, copy, copy.record, hashes)]
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


def _is_gap(record: LedgerRecord, hashes: Sequence[str]) -> bool:
    """Return whether lines may be lost, or requests on their way, that the record does not describe."""
    common = find_common_line(record, hashes)
    is_short = common < record.lines and not record.has_all_runs and record.runs[0].last_line > common
    return is_short or not record.has_all_releases


def _book_lost_copy(ledger: Ledger, copy: LostCopy, record: LedgerRecord, hashes: Sequence[str]) -> list[str]:
    """Book what a copy had booked and this file does not hold; return the runs for which there was anything.

    Lines after the common one were booked after the restore: they are spent too and replace none of the lost ones.
    """
    common = find_common_line(record, hashes)
    held = [each for each in ledger.entries if each.kind in SPENT_KINDS]
    held = [each for each in held if each.number <= common or copy.accounts_for(each)]
    costs = {each.run: each.cost for each in record.runs}
    booked = _book_missing(ledger, costs, held, copy.describe_loss(LOST))
    reason = copy.describe_loss(IN_FLIGHT)
    return booked + _book_missing(
        ledger, record.releases, [each for each in ledger.entries if each.reason == reason], reason
    )


def _book_missing(ledger: Ledger, costs: Mapping[str, RunCost], held: Sequence[LedgerEntry], reason: str) -> list[str]:
    """Book of each run's cost what the lines do not hold; return the runs for which there was anything."""
    booked = []
    for run, cost in costs.items():
        missing = compute_remaining_cost(cost, [each.mechanism for each in held if each.run == run])
        ledger.record_lost_event(run, missing, reason)
        booked += [run] if missing.events else []
    return booked


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
