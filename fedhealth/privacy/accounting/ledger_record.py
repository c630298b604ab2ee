"""What a site must know about its ledger after a restore: the record that it seals to itself in its statements.

A record lists, for the last runs, everything that they had booked and what one more request of them may book, and
marks: the numbers and hashes of some lines. The newest mark that a restored file still holds shows up to where the file
and the lost one are the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedhealth.privacy.accounting.accountant import PrivacyEvent
from fedhealth.privacy.accounting.ledger import verify_ledger
from fedhealth.privacy.accounting.ledger_entry import SPENT_KINDS, LedgerEntry
from fedhealth.privacy.accounting.privacy_target import list_newest_targets, load_target
from fedhealth.privacy.accounting.reservations import RunCost
from fedhealth.utils.hash_chain import read_hashes

MAX_RUNS = 8
"""The most runs, those that booked last; a ledger that has lost lines of an earlier one counts as used up."""
_MAX_UNBOOKED = 2  # of the runs that have booked nothing yet, those that joined last
_DENSE_MARKS = 4  # for each of these runs
_MARK = 12  # hexadecimal digits of a line's hash


@dataclass(frozen=True)
class BookedRun:
    """What one run had booked on a data set.

    Attributes:
        run: its id.
        cost: everything that it had booked.
        last_line: number of the line that booked last.

    """

    run: str
    cost: RunCost
    last_line: int


@dataclass(frozen=True)
class LedgerRecord:
    """What a ledger held when a statement was signed.

    Attributes:
        dataset: its name.
        lines: how many it had.
        marks: (number, first digits of the hash) of some lines.
        runs: that booked last, the latest last.
        has_all_runs: whether no run booked before these.
        releases: each event that one request may book, by run: of these runs, and of those that joined last.

    """

    dataset: str
    lines: int
    marks: tuple[tuple[int, str], ...]
    runs: tuple[BookedRun, ...]
    has_all_runs: bool
    releases: Mapping[str, RunCost]

    def dump_fields(self) -> dict[str, Any]:
        """Return it as plain values for JSON."""
        return {
            "dataset": self.dataset,
            "lines": self.lines,
            "marks": self.marks,
            "runs": [[each.run, *_dump_cost(each.cost), each.last_line] for each in self.runs],
            "has_all_runs": self.has_all_runs,
            "releases": {run: _dump_cost(cost) for run, cost in self.releases.items()},
        }

    @staticmethod
    def parse(fields: Mapping[str, Any]) -> LedgerRecord:
        """Parse what `dump_fields` returned."""
        runs = tuple(BookedRun(str(run), _parse_cost(cost), int(last)) for run, *cost, last in fields["runs"])
        releases = {str(run): _parse_cost(cost) for run, cost in fields["releases"].items()}
        marks = tuple((int(number), str(mark)) for number, mark in fields["marks"])
        return LedgerRecord(
            str(fields["dataset"]), int(fields["lines"]), marks, runs, bool(fields["has_all_runs"]), releases
        )


def build_ledger_record(path: Path, most_runs: int = MAX_RUNS) -> LedgerRecord:
    """Return the record of a ledger; with fewer runs it is shorter, and a recovery may have to book more.

    Raises:
        PrivacyError: it was edited, cut or damaged.

    """
    entries, hashes = verify_ledger(path), read_hashes(path)
    spent = [entry for entry in entries if entry.kind in SPENT_KINDS]
    last = {entry.run: entry.number for entry in spent}
    latest = sorted(last, key=lambda run: last[run])[-most_runs:]
    runs = tuple(_build_booked_run(run, [entry for entry in spent if entry.run == run]) for run in latest)
    numbers = _choose_marked_lines(len(entries), _DENSE_MARKS * most_runs) | {last[run] for run in latest}
    marks = tuple((number, hashes[number - 1][:_MARK]) for number in sorted(numbers))
    has_all_runs = len(latest) == len(last)
    return LedgerRecord(path.stem, len(entries), marks, runs, has_all_runs, _collect_releases(path, spent, latest))


def find_common_line(record: LedgerRecord, hashes: Sequence[str]) -> int:
    """Return the number of the newest marked line that a file with these line hashes still holds; 0 for none."""
    known = [number for number, mark in record.marks if number <= len(hashes)]
    marks = dict(record.marks)
    return max((number for number in known if hashes[number - 1].startswith(marks[number])), default=0)


def _build_booked_run(run: str, spent: Sequence[LedgerEntry]) -> BookedRun:
    steps: dict[PrivacyEvent, int] = {}
    for entry in spent:
        mechanism = replace(entry.mechanism, steps=1)
        steps[mechanism] = steps.get(mechanism, 0) + entry.mechanism.steps
    events = tuple(replace(mechanism, steps=count) for mechanism, count in steps.items())
    return BookedRun(run, RunCost(spent[-1].unit, events, _find_most_records(spent)), spent[-1].number)


def _collect_releases(path: Path, spent: Sequence[LedgerEntry], latest: Sequence[str]) -> dict[str, RunCost]:
    """Return each event that one request may book: by the runs' targets, else the last booking of every purpose."""
    folder, booked = path.parent.parent, {entry.run for entry in spent}
    joined = [each for each in list_newest_targets(folder) if each.dataset == path.stem and each.run not in booked]
    known = [each for each in (load_target(folder, run) for run in latest) if each is not None and each.release_events]
    found = {
        each.run: RunCost(each.unit, each.release_events, each.max_records_per_patient)
        for each in known + joined[:_MAX_UNBOOKED]
    }
    for run in (each for each in latest if each not in found):
        own = [entry for entry in spent if entry.run == run]
        events = {entry.purpose: entry.mechanism for entry in own if entry.kind == "book"}
        found[run] = RunCost(own[-1].unit, tuple(events.values()), _find_most_records(own))
    return found


def _find_most_records(spent: Sequence[LedgerEntry]) -> int:
    return max(entry.max_records_per_patient for entry in spent)


def _choose_marked_lines(count: int, dense: int) -> set[int]:
    """Return the last `dense` lines, and ever fewer of those before."""
    chosen, distance = set(range(max(1, count - dense + 1), count + 1)), float(dense)
    while distance < count:
        chosen.add(count - int(distance))
        distance *= 1.4
    return chosen


def _dump_cost(cost: RunCost) -> list[Any]:
    events = [[event.noise_multiplier, event.sample_rate, event.steps, event.shares] for event in cost.events]
    return [cost.unit, cost.max_records_per_patient, events]


def _parse_cost(fields: Sequence[Any]) -> RunCost:
    unit, most, events = fields
    return RunCost(str(unit), tuple(PrivacyEvent(*event) for event in events), int(most))
