"""The parts of an ingest that run in workers: files, series, tables. What is known already is not read again."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial

from fedhealth.errors import DataError, FedhealthError
from fedhealth.ingest.examine import Found, Series, Work
from fedhealth.ingest.pixel_writer import Task, examine_and_keep
from fedhealth.ingest.records import Entry
from fedhealth.ingest.selection_rules import chosen, in_order
from fedhealth.ingest.settings import Settings, Table
from fedhealth.ingest.source import Item, Source
from fedhealth.ingest.store import Store
from fedhealth.ingest.tables import Rows, load_table
from fedhealth.ingest.worker_pool import Failed, Pool

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, how many are done, how many there are)."""

_TABLE_PATIENCE = 10  # a table may take so many times as long as an image
_AHEAD = 16  # files; on a busy machine this process may have to wait, and workers should not


def listed(source: Source) -> list[Item]:
    """Return the source's files.

    Raises:
        DataError: there is none.

    """
    items = list(source.items())
    if not items:
        raise DataError("The source holds no file.", "Correct source; see docs/ingest.md.")
    return items


def examined(
    store: Store, work: Work, settings: Settings, items: Sequence[Item], workers: int, progress: Progress
) -> list[Entry]:
    """Return an entry for every file."""
    found = {item.name: store.known(*item) for item in items}
    new = [Task(item, store.slots[item.name]) for item in items if found[item.name] is None]
    done = len(items) - len(new)
    progress("Reading files", done, len(items))
    limits = settings.limits
    if new:
        stamps = {item.name: item.stamp for item in items}
        task = partial(examine_and_keep, work, store.shared)
        with Pool[Task, Found | OSError](
            task, min(workers, len(new)), limits.seconds, limits.megabytes, _AHEAD
        ) as pool:
            for entry in _added(store, pool, new, stamps):
                found[entry.name] = entry
                done += 1
                progress("Reading files", done, len(items))
    return [entry for entry in found.values() if entry is not None]


def _added(
    store: Store, pool: Pool[Task, Found | OSError], tasks: Iterable[Task], stamps: Mapping[str, str]
) -> Iterator[Entry]:
    """Yield what became of files or series, written down, as the answers come.

    Raises:
        OSError: the disk does not take pixels; that is no fault of a file.

    """
    for task, answer in pool.answers(tasks):
        if isinstance(answer, OSError):
            raise answer
        found = Found(rejected=answer.reason, lasting=False) if isinstance(answer, Failed) else answer
        yield store.add(task.unit.name, stamps[task.unit.name], found)


def stacked(
    store: Store, work: Work, settings: Settings, entries: Sequence[Entry], workers: int, progress: Progress
) -> tuple[list[Entry], dict[str, Entry]]:
    """Return an entry for every series that a rule chooses slices from, and one of its files' entries by its name."""
    groups: defaultdict[tuple[str, int], list[Entry]] = defaultdict(list)
    for entry in entries:
        if entry.facts and entry.rule is not None and not (entry.pictures or entry.rejected or entry.left_out):
            groups[entry.facts.series or entry.name, entry.rule].append(entry)
    tasks, found, headers = [], list[Entry](), dict[str, Entry]()
    for (series, rule), members in sorted(groups.items()):
        task = _series(f"series {series} {rule}", members, work)
        stamp = hashlib.sha256(json.dumps(task.slices).encode()).hexdigest()
        headers[task.name] = members[0]
        known = store.known(task.name, stamp)
        if known is None:
            tasks.append((task, stamp))
        else:
            found.append(known)
    return found + _read_stacks(store, work, settings, tasks, workers, progress), headers


def _series(name: str, members: Sequence[Entry], work: Work) -> Series:
    stamps = {entry.name: entry.stamp for entry in members}
    order = in_order([(entry.name, entry.facts) for entry in members if entry.facts])
    rule = members[0].rule or 0
    which = chosen(len(order), work.select[rule])
    return Series(name, rule, tuple(Item(order[place], stamps[order[place]]) for place in which))


def _read_stacks(
    store: Store,
    work: Work,
    settings: Settings,
    tasks: Sequence[tuple[Series, str]],
    workers: int,
    progress: Progress,
) -> list[Entry]:
    if not tasks:
        return []
    stamps, found = {series.name: stamp for series, stamp in tasks}, []
    longest = max(len(series.slices) for series, _ in tasks)
    limits = settings.limits
    progress("Reading series", 0, len(tasks))
    with Pool[Task, Found | OSError](
        partial(examine_and_keep, work, store.shared),
        min(workers, len(tasks)),
        limits.seconds * longest,
        limits.megabytes,
    ) as pool:
        for entry in _added(store, pool, (Task(series) for series, _ in tasks), stamps):
            found.append(entry)
            progress("Reading series", len(found), len(tasks))
    return found


def read_tables(settings: Settings, progress: Progress) -> list[Rows]:
    """Read the tables, each in a worker with limits of its own.

    Raises:
        DataError: one cannot be read.

    """
    read: dict[int, Rows] = {}
    limits, wanted = settings.limits, list(enumerate(settings.tables))
    if not wanted:
        return []
    progress("Reading tables", 0, len(wanted))
    task = partial(_load, settings)
    with Pool[tuple[int, Table], Rows | FedhealthError](
        task, 1, _TABLE_PATIENCE * limits.seconds, limits.megabytes
    ) as pool:
        for (place, table), answer in pool.answers(wanted):
            if isinstance(answer, Failed):
                raise DataError(f"{table.path}: reading it {answer.reason}.", "Split it, or raise limits.")
            if isinstance(answer, FedhealthError):
                raise answer
            read[place] = answer
            progress("Reading tables", len(read), len(wanted))
    return [read[place] for place in sorted(read)]


def _load(settings: Settings, wanted: tuple[int, Table]) -> Rows | FedhealthError:
    return load_table(wanted[1], settings.text)
