"""What a site must know about its ledger after a restore: the record that it seals to itself in its statements.

A record lists everything that the last runs had booked, what one more request of every run that has not ended may book,
and marks: the numbers and hashes of some lines. The newest mark that a restored file still holds shows up to where the
file and the lost one are the same.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedhealth.errors import PrivacyError
from fedhealth.privacy.accounting.accountant import PrivacyEvent
from fedhealth.privacy.accounting.ledger import verify_ledger
from fedhealth.privacy.accounting.ledger_entry import SPENT_KINDS, LedgerEntry
from fedhealth.privacy.accounting.privacy_target import list_newest_targets
from fedhealth.privacy.accounting.reservations import RunCost
from fedhealth.utils.hash_chain import read_hashes
from fedhealth.utils.json_model import WholeNumber, parse_model

MAX_RUNS = 8
"""The most runs, those that booked last; a ledger that has lost lines of an earlier one counts as used up."""
_DENSE_MARKS = 4  # for each of these runs
_LARGEST = 2**26  # bytes
_WHERE = "The record of a privacy ledger", "Ask for help: no ledger may be deleted or moved away.", PrivacyError
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
        releases: each event that one request may book, by run: of the runs that have not ended.
        has_all_releases: whether these are all of them.

    """

    dataset: str
    lines: int
    marks: tuple[tuple[int, str], ...]
    runs: tuple[BookedRun, ...]
    has_all_runs: bool
    releases: Mapping[str, RunCost]
    has_all_releases: bool

    def dump_fields(self) -> dict[str, Any]:
        """Return it as plain values for JSON."""
        return {
            "dataset": self.dataset,
            "lines": self.lines,
            "marks": self.marks,
            "runs": [[each.run, *_dump_cost(each.cost), each.last_line] for each in self.runs],
            "has_all_runs": self.has_all_runs,
            "releases": {run: _dump_cost(cost) for run, cost in self.releases.items()},
            "has_all_releases": self.has_all_releases,
        }

    def holds_line(self, digest: str) -> bool:
        """Return whether a line with this hash is one of the marked ones."""
        return any(digest.startswith(mark) for _, mark in self.marks)


_Event = tuple[float, float, WholeNumber, WholeNumber]
_StoredRun = tuple[str, str, WholeNumber, tuple[_Event, ...], WholeNumber]


@dataclass(frozen=True)
class _StoredRecord:
    """A record as it is sealed: runs, costs and events are lists, to be short."""

    dataset: str
    lines: WholeNumber
    marks: tuple[tuple[WholeNumber, str], ...]
    runs: tuple[_StoredRun, ...]
    has_all_runs: bool
    releases: Mapping[str, tuple[str, WholeNumber, tuple[_Event, ...]]]
    has_all_releases: bool


def dump_records(records: Sequence[LedgerRecord]) -> bytes:
    """Return records as JSON, without blanks."""
    return json.dumps([each.dump_fields() for each in records], separators=(",", ":")).encode()


def build_ledger_record(path: Path, ended: Collection[str] = (), most_runs: int = MAX_RUNS) -> LedgerRecord:
    """Return the record of a ledger.

    Args:
        path: of the ledger.
        ended: runs that have ended for good; all others may send one more request.
        most_runs: with fewer runs the record is shorter, and a recovery may have to book more.

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
    releases, has_all_releases = _collect_releases(path, spent, ended, most_runs)
    has_all_runs = len(latest) == len(last)
    return LedgerRecord(path.stem, len(entries), marks, runs, has_all_runs, releases, has_all_releases)


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


def _collect_releases(
    path: Path, spent: Sequence[LedgerEntry], ended: Collection[str], most_runs: int
) -> tuple[dict[str, RunCost], bool]:
    """Return each event that one request may book, by the runs' targets or their bookings, and whether all are there.

    At most `most_runs` runs that have booked, and as many that have only joined.
    """
    targets = list_newest_targets(path.parent.parent, ended)
    own = {each.run: each for each in targets if each.dataset == path.stem}
    may_ask = (entry for entry in spent if entry.run not in ended and (entry.kind == "book" or entry.run in own))
    last = {entry.run: entry.number for entry in may_ask}
    booked = sorted(last, key=lambda run: last[run])
    joined = [run for run in own if run not in last]
    found = {run: own[run] for run in [*booked[-most_runs:], *joined[:most_runs]] if run in own}
    releases = {
        run: RunCost(each.unit, each.release_events, each.max_records_per_patient) for run, each in found.items()
    }
    for run in booked[-most_runs:]:
        if run not in releases or not releases[run].events:
            releases[run] = _build_booked_releases([entry for entry in spent if entry.run == run])
    return releases, max(len(booked), len(joined)) <= most_runs


def _build_booked_releases(own: Sequence[LedgerEntry]) -> RunCost:
    """Return the last event that a run has booked for every purpose."""
    events = {entry.purpose: entry.mechanism for entry in own if entry.kind == "book"}
    return RunCost(own[-1].unit, tuple(events.values()), _find_most_records(own))


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


def load_records(content: bytes) -> list[LedgerRecord]:
    """Return what `dump_records` wrote.

    Raises:
        PrivacyError: it is something else; all faults are listed.

    """
    return [_build_record(each) for each in parse_model(content, tuple[_StoredRecord, ...], *_WHERE, limit=_LARGEST)]


def _build_record(stored: _StoredRecord) -> LedgerRecord:
    runs = tuple(BookedRun(run, _build_cost(unit, most, events), last) for run, unit, most, events, last in stored.runs)
    releases = {run: _build_cost(*cost) for run, cost in stored.releases.items()}
    return LedgerRecord(**{**vars(stored), "runs": runs, "releases": releases})


def _build_cost(unit: str, most: int, events: Sequence[_Event]) -> RunCost:
    return RunCost(unit, tuple(PrivacyEvent(*event) for event in events), most)
