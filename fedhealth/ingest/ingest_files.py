"""Run an ingest: examine every file once, select slices of series, join the tables, write the dataset."""

from __future__ import annotations

import csv
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd

from fedhealth.config.part_contracts import INGEST_SOURCE, build_part
from fedhealth.config.schema import DataConfig
from fedhealth.config.windows import parse_windows
from fedhealth.data.dataset import SiteDataset, prepare_dataset
from fedhealth.data.findings import dump_findings, sort_findings
from fedhealth.data.ingested_dataset import INFO_FILE, MANIFEST_FILE, STRUCTURE_COLUMNS
from fedhealth.errors import ConfigError, DataError, FedhealthError
from fedhealth.ingest.cohort_findings import check_tables, find_ingest_findings, find_text_leakage
from fedhealth.ingest.examine import ExamineOptions
from fedhealth.ingest.exclusions import drop_excluded, purge_caches, read_exclusions
from fedhealth.ingest.join import JoinResult, identify_images, join_tables
from fedhealth.ingest.pipeline import (
    IngestProgress,
    examine_files,
    examine_series,
    list_files,
    mark_other_orientations,
    read_tables,
    screen_own_deidentifier,
)
from fedhealth.ingest.records import IngestRecord
from fedhealth.ingest.report import PAGE_FILE, REPORT_FILE
from fedhealth.ingest.result import IngestResult
from fedhealth.ingest.settings import IngestSettings
from fedhealth.ingest.source import IngestSource
from fedhealth.ingest.store import IngestStore
from fedhealth.ingest.table_source import build_table_source
from fedhealth.utils.atomic_io import write_atomic, write_json
from fedhealth.utils.file_lock import lock_file
from fedhealth.utils.guarded_part import guard_part

VERSION = 3  # of the processing from file to pixels; after a change everything is read again
REJECTED_FILE, DRAFT_FILE = "rejected.csv", "work/draft.json"
NO_PATIENT_ID = "no patient identifier, in the header or in a table"
_INGESTED_SOURCE = {"_target_": "fedhealth.data.ingested_dataset.IngestedDataset"}
_LISTED = 5


def ingest_files(
    settings: IngestSettings, data: DataConfig, folder: Path, workers: int, progress: IngestProgress
) -> IngestResult:
    """Create or update the dataset in `folder`; unchanged files are not read again.

    Args:
        settings: the hospital's ingest settings.
        data: the consortium's description of these data.
        folder: of the dataset, private to the hospital.
        workers: number of worker processes.
        progress: called after each file, series and table.

    Raises:
        ConfigError: another ingest is using the folder, or the source contains it.
        DataError: there is nothing to read, too many files are rejected, or the tables do not match the settings.

    """
    source = guard_part(build_part(settings.source, "source", INGEST_SOURCE), IngestSource)
    for table in settings.tables:  # a fault of their settings shows now, not after all images
        build_table_source(table)
    if source.contains_folder(folder):
        raise ConfigError(
            f"The cohort's folder {folder} is in the source, which would read it.", "Choose another --out."
        )
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _lock_folder(folder):
        try:
            return _ingest_source(settings, data, source, folder, workers, progress)
        except FedhealthError:
            (folder / INFO_FILE).unlink(missing_ok=True)  # an earlier cohort is not what the files and tables say now
            raise


def _ingest_source(
    settings: IngestSettings,
    data: DataConfig,
    source: IngestSource,
    folder: Path,
    workers: int,
    progress: IngestProgress,
) -> IngestResult:
    notes = screen_own_deidentifier(settings)
    excluded, rules, items = read_exclusions(settings.exclude), settings.identifiers.rules, list_files(source, progress)
    options = _make_options(settings, data, source, excluded)
    kind = np.dtype("u1" if settings.image.bits == 8 else "<u2")
    shape = (data.image.channels, data.image.size, data.image.size)
    names = (item.name for item in items)
    with IngestStore(folder, names, shape, kind, _describe_processing(options)) as store:
        records = mark_other_orientations(examine_files(store, options, settings, items, workers, progress))
        stacks, headers = examine_series(store, options, settings, records, workers, progress)
        records = sorted([*records, *stacks], key=lambda record: record.name)
        tables = read_tables(settings, data, excluded, progress)
        codes = identify_images((record for record in records if record.pictures), tables, headers, rules)
        records = drop_excluded(records, codes, tables)
        codes = {record.name: codes[record.name] for record in records if record.pictures}
        lost = {name for name, keys in codes.items() if not keys["patient"]}
        rejected = _list_rejected(records, lost)
        _write_rejected(folder, rejected)
        _check_rejected_share(rejected, len(codes) - len(lost), data.max_rejected)
        matched = check_tables(settings.identifiers, tables, codes, records, headers)
        images, records = store.finish(records)
        joined = join_tables((record for record in records if record.name not in lost), tables, headers, rules)
        info = {"manifest": _write_manifest(folder, joined, data), "images": images}
        draft = _load_draft(settings, data, folder, info)
        result = IngestResult(folder, draft, records, headers, joined, tables, rejected, (*notes, *matched))
        result = _complete_cohort(result, settings, data, info)
        store.remove_old_files(images)
    return result


def _make_options(
    settings: IngestSettings, data: DataConfig, source: IngestSource, excluded: frozenset[str]
) -> ExamineOptions:
    image, windows = data.image, parse_windows(data.image.window)
    return ExamineOptions(source, settings.select, settings.image, image.size, image.channels, windows, excluded)


def _complete_cohort(
    result: IngestResult, settings: IngestSettings, data: DataConfig, info: Mapping[str, str]
) -> IngestResult:
    """Mark the cohort as complete, with its findings; delete what earlier trainings derived from it."""
    result, folder = replace(result, leaks=tuple(find_text_leakage(result, data))), result.folder
    findings = sort_findings(find_ingest_findings(result, data))
    for name in (REPORT_FILE, PAGE_FILE):  # the page shows images, perhaps of a patient who is excluded now
        (folder / name).unlink(missing_ok=True)
    write_json(folder / INFO_FILE, {**info, "findings": dump_findings(findings)})
    ready = replace(data, root=str(folder), manifest=MANIFEST_FILE, site_column=None, source=_INGESTED_SOURCE)
    dataset = prepare_dataset(ready, settings.site)
    purged = purge_caches(dataset.folder.parent, folder, dataset.folder.name)
    return replace(result, dataset=dataset, findings=findings, purged=tuple(each.name for each in purged))


def _load_draft(settings: IngestSettings, data: DataConfig, folder: Path, info: Mapping[str, str]) -> SiteDataset:
    """Load the dataset as training will, before it is marked as complete: if it has a fault, the ingest fails."""
    write_json(folder / DRAFT_FILE, {**info, "findings": []})
    source = _INGESTED_SOURCE | {"info": DRAFT_FILE}
    draft = replace(data, root=str(folder), manifest=MANIFEST_FILE, site_column=None, source=source)
    return prepare_dataset(replace(draft, cache=str(folder / "work" / "cache")), settings.site)


@contextmanager
def _lock_folder(folder: Path) -> Iterator[None]:
    busy = ConfigError(f"Another ingest is using {folder}.", "Wait for it, or stop it first.")
    with lock_file(folder / ".lock", wait=0, error=busy):
        yield


def _describe_processing(options: ExamineOptions) -> str:
    rules = [asdict(rule) for rule in options.select]
    wanted = [VERSION, rules, asdict(options.image), options.size, options.channels, options.windows]
    return json.dumps(wanted, sort_keys=True)


def _list_rejected(records: Sequence[IngestRecord], lost: set[str]) -> list[tuple[str, str]]:
    reasons = ((record.name, record.rejected or (NO_PATIENT_ID if record.name in lost else "")) for record in records)
    return [(name, reason) for name, reason in reasons if reason]


def _write_rejected(folder: Path, rejected: Sequence[tuple[str, str]]) -> None:
    listed = StringIO(newline="")
    csv.writer(listed, lineterminator="\n").writerows([("name", "reason"), *rejected])
    content = listed.getvalue().encode("utf-8", "backslashreplace")  # names of files may be in another encoding
    write_atomic(folder / REJECTED_FILE, content)


def _check_rejected_share(rejected: Sequence[tuple[str, str]], accepted: int, limit: float) -> None:
    total = len(rejected) + accepted
    if len(rejected) <= limit * total:
        return
    reasons = Counter(reason for _, reason in rejected).most_common()
    shown = "\n".join(f"  {count:6} {reason}" for reason, count in reasons[:_LISTED])
    more = f"\n  and {len(reasons) - _LISTED} more reasons" if len(reasons) > _LISTED else ""
    raise DataError(
        f"{len(rejected)} of {total} images were rejected:\n{shown}{more}",
        f"{REJECTED_FILE} in the cohort's folder lists them. Repair or remove them, or raise data.max_rejected "
        f"(now {limit:g}) to continue without them. The next ingest reuses what is already done.",
    )


def _write_manifest(folder: Path, joined: JoinResult, data: DataConfig) -> str:
    """Write the manifest and return its SHA-256."""
    further = [*data.columns.labels, *(name for name in data.tabular if name not in data.columns.labels)]
    table = {
        "patient": [row.keys["patient"] for row in joined.rows],
        "study": [row.study for row in joined.rows],
        "image": ["" if row.slot is None else str(row.slot) for row in joined.rows],
        **{name: [row.cells.get(name, "") for row in joined.rows] for name in ("text", "split", *further)},
    }
    frame = pd.DataFrame(table, columns=[*STRUCTURE_COLUMNS, *further])
    content = frame.to_csv(index=False, lineterminator="\n").encode("utf-8", "replace")
    write_atomic(folder / MANIFEST_FILE, content)
    return hashlib.sha256(content).hexdigest()
