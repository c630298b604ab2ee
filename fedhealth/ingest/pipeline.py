"""The stages of an ingest that run in workers: files, series, tables. Unchanged files are not read again."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

from fedhealth.config.schema import DataConfig
from fedhealth.data.findings import DataFinding, FindingKind
from fedhealth.errors import ConfigError, DataError, FedhealthError
from fedhealth.ingest.examine import DicomSeries, ExamineOptions, ExamineResult
from fedhealth.ingest.exclusions import make_excluded_record
from fedhealth.ingest.image_content import find_main_orientation
from fedhealth.ingest.own_deidentifier import screen_deidentifier
from fedhealth.ingest.pixel_writer import PixelTask, examine_and_write
from fedhealth.ingest.records import IngestRecord
from fedhealth.ingest.selection_rules import select_slices, sort_slices
from fedhealth.ingest.settings import IngestSettings, IngestTable
from fedhealth.ingest.source import IngestSource, SourceFile
from fedhealth.ingest.store import IngestStore
from fedhealth.ingest.table_source import build_table_source
from fedhealth.ingest.tables import TableContext, TableRows, load_table
from fedhealth.ingest.worker_pool import FailedTask, WorkerPool

IngestProgress = Callable[[str, int, int], None]
"""Called with (stage, done, total)."""

OTHER_ORIENTATION = "another orientation than most of its series"
_TABLE_TIMEOUT_FACTOR = 10  # a table may take this many times as long as an image
_LISTED_AT_ONCE = 256  # files between two lines of progress
_AHEAD = 16  # files queued per worker, so that workers do not wait when this process is slow on a busy machine


def screen_own_deidentifier(settings: IngestSettings) -> tuple[DataFinding, ...]:
    """Screen the hospital's own function in a worker; return a finding that says which package cleans the reports.

    Raises:
        ConfigError: it does not pass.

    """
    name, is_alone, limits = settings.text.deidentifier, not settings.text.deidentify, settings.limits
    if not name:
        return ()
    with WorkerPool[bool, str | FedhealthError](
        partial(_screen_in_worker, name), 1, limits.seconds, limits.megabytes
    ) as pool:
        [(_, result)] = pool.iterate_results([is_alone])
    if isinstance(result, FailedTask):
        raise ConfigError(f"text.deidentifier: {name!r} {result.reason} on a sample report.", "Correct the function.")
    if isinstance(result, FedhealthError):
        raise result
    then = "fedhealth's patterns are off" if is_alone else "fedhealth's patterns follow"
    text = f"Reports are de-identified by {name!r} of {result}; {then}."
    return (DataFinding(FindingKind.privacy, text),)


def _screen_in_worker(name: str, is_alone: bool) -> str | FedhealthError:
    try:
        return screen_deidentifier(name, is_alone)
    except FedhealthError as fault:
        return fault


def list_files(source: IngestSource, progress: IngestProgress) -> list[SourceFile]:
    """Return the source's files.

    Raises:
        DataError: the source is empty.

    """
    items = list[SourceFile]()
    for item in source.items():
        items.append(item)
        if len(items) % _LISTED_AT_ONCE == 0:  # an archive may take minutes
            progress("Listing files", len(items), len(items))
    if not items:
        raise DataError("The source contains no file.", "Correct source; see docs/ingest.md.")
    return items


def examine_files(
    store: IngestStore,
    options: ExamineOptions,
    settings: IngestSettings,
    items: Sequence[SourceFile],
    workers: int,
    progress: IngestProgress,
) -> list[IngestRecord]:
    """Return a record for every file; examine only new and changed files."""
    found = {item.name: store.find_record(item.name, item.stamp) for item in items}
    for item in items:
        record = found[item.name]
        patient = record.fields.patient if record and record.fields else item.patient
        if patient in options.excluded:  # an archive may say whose a file is: then it is not fetched
            found[item.name] = make_excluded_record(item.name)
    new = [PixelTask(item, store.slots[item.name]) for item in items if found[item.name] is None]
    done = len(items) - len(new)
    progress("Reading files", done, len(items))
    limits = settings.limits
    if new:
        stamps = {item.name: item.stamp for item in items}
        task = partial(examine_and_write, options, store.shared)
        with WorkerPool[PixelTask, ExamineResult | OSError](
            task, min(workers, len(new)), limits.seconds, limits.megabytes, _AHEAD
        ) as pool:
            for record in _store_results(store, pool, new, stamps):
                found[record.name] = record
                done += 1
                progress("Reading files", done, len(items))
    return [record for record in found.values() if record is not None]


def _store_results(
    store: IngestStore,
    pool: WorkerPool[PixelTask, ExamineResult | OSError],
    tasks: Iterable[PixelTask],
    stamps: Mapping[str, str],
) -> Iterator[IngestRecord]:
    """Store the results of files or series as they arrive, and yield their records.

    Raises:
        OSError: pixels cannot be written to the disk; this is not a fault of a file.

    """
    for task, result in pool.iterate_results(tasks):
        if isinstance(result, OSError):
            raise result
        found = ExamineResult(rejected=result.reason, is_final=False) if isinstance(result, FailedTask) else result
        yield store.add(task.unit.name, stamps[task.unit.name], found)


def mark_other_orientations(records: Sequence[IngestRecord]) -> list[IngestRecord]:
    """Return the records with slices left out whose orientation is not that of most slices of their series."""
    stacks: defaultdict[tuple[str, int], list[str]] = defaultdict(list)
    for record in records:
        if is_slice(record) and record.fields:
            stacks[_get_stack(record)].append(record.fields.orientation)
    main = {stack: find_main_orientation(orientations) for stack, orientations in stacks.items()}
    return [
        replace(record, left_out="" if record.fields.orientation == main[_get_stack(record)] else OTHER_ORIENTATION)
        if is_slice(record) and record.fields
        else record
        for record in records
    ]


def is_slice(record: IngestRecord) -> bool:
    """Return whether a file is one of a series from which a rule selects slices."""
    undecided = not (record.pictures or record.rejected) and record.left_out in ("", OTHER_ORIENTATION)
    return record.fields is not None and record.rule is not None and undecided


def _get_stack(record: IngestRecord) -> tuple[str, int]:
    """Return the series and the rule of a slice."""
    return (record.fields.series if record.fields else "") or record.name, record.rule or 0


def examine_series(
    store: IngestStore,
    options: ExamineOptions,
    settings: IngestSettings,
    records: Sequence[IngestRecord],
    workers: int,
    progress: IngestProgress,
) -> tuple[list[IngestRecord], dict[str, IngestRecord]]:
    """Return a record for every series that a rule selects slices from, and by its name one of its files' records."""
    groups: defaultdict[tuple[str, int], list[IngestRecord]] = defaultdict(list)
    for record in records:
        if is_slice(record) and not record.left_out:
            groups[_get_stack(record)].append(record)
    tasks, found, headers = [], list[IngestRecord](), dict[str, IngestRecord]()
    for (series, rule), members in sorted(groups.items()):
        task = _select_series_slices(f"series {series} {rule}", members, options)
        stamp = hashlib.sha256(json.dumps([each[:2] for each in task.slices]).encode()).hexdigest()
        headers[task.name] = members[0]
        known = store.find_record(task.name, stamp)
        if known is None:
            tasks.append((task, stamp))
        else:
            found.append(known)
    return found + _read_stacks(store, options, settings, tasks, workers, progress), headers


def _select_series_slices(name: str, members: Sequence[IngestRecord], options: ExamineOptions) -> DicomSeries:
    stamps = {record.name: record.stamp for record in members}
    order = sort_slices([(record.name, record.fields) for record in members if record.fields])
    rule = members[0].rule or 0
    which = select_slices(len(order), options.select[rule])
    return DicomSeries(name, rule, tuple(SourceFile(order[place], stamps[order[place]]) for place in which))


def _read_stacks(
    store: IngestStore,
    options: ExamineOptions,
    settings: IngestSettings,
    tasks: Sequence[tuple[DicomSeries, str]],
    workers: int,
    progress: IngestProgress,
) -> list[IngestRecord]:
    if not tasks:
        return []
    stamps, found = {series.name: stamp for series, stamp in tasks}, []
    longest = max(len(series.slices) for series, _ in tasks)
    limits = settings.limits
    progress("Reading series", 0, len(tasks))
    with WorkerPool[PixelTask, ExamineResult | OSError](
        partial(examine_and_write, options, store.shared),
        min(workers, len(tasks)),
        limits.seconds * longest,
        limits.megabytes,
    ) as pool:
        for record in _store_results(store, pool, (PixelTask(series) for series, _ in tasks), stamps):
            found.append(record)
            progress("Reading series", len(found), len(tasks))
    return found


def read_tables(
    settings: IngestSettings, data: DataConfig, excluded: frozenset[str], progress: IngestProgress
) -> list[TableRows]:
    """Read the tables in a worker with limits of time and memory.

    Raises:
        DataError: a table cannot be read.

    """
    read: dict[int, TableRows] = {}
    limits, wanted = settings.limits, list(enumerate(settings.tables))
    if not wanted:
        return []
    progress("Reading tables", 0, len(wanted))
    task = partial(_load_one_table, TableContext(settings.text, settings.identifiers, data, excluded))
    with WorkerPool[tuple[int, IngestTable], TableRows | FedhealthError](
        task, 1, _TABLE_TIMEOUT_FACTOR * limits.seconds, limits.megabytes
    ) as pool:
        for (place, table), result in pool.iterate_results(wanted):
            if isinstance(result, FailedTask):
                raise DataError(
                    f"{build_table_source(table).name}: reading it {result.reason}.", "Split it, or raise limits."
                )
            if isinstance(result, FedhealthError):
                raise result
            read[place] = result
            progress("Reading tables", len(read), len(wanted))
    return [read[place] for place in sorted(read)]


def _load_one_table(context: TableContext, wanted: tuple[int, IngestTable]) -> TableRows | FedhealthError:
    return load_table(wanted[1], context)
