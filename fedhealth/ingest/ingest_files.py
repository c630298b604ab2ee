"""Run an ingest: examine every file once, select slices of series, join the tables, write the dataset."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from fedhealth.config.instantiate import instantiate
from fedhealth.config.schema import DataConfig
from fedhealth.data.dataset import SiteDataset, prepare_dataset
from fedhealth.data.ingested_dataset import INFO_FILE, MANIFEST_FILE, STRUCTURE_COLUMNS
from fedhealth.errors import ConfigError, DataError
from fedhealth.ingest.examine import ExamineOptions
from fedhealth.ingest.join import JoinResult, find_unidentified, join_tables
from fedhealth.ingest.pipeline import IngestProgress, examine_files, examine_series, list_files, read_tables
from fedhealth.ingest.records import IngestRecord
from fedhealth.ingest.settings import IngestSettings
from fedhealth.ingest.source import IngestSource
from fedhealth.ingest.store import IngestStore
from fedhealth.ingest.tables import TableRows
from fedhealth.utils.atomic_io import write_atomic, write_json
from fedhealth.utils.file_lock import lock_file

VERSION = 2  # of the processing from file to pixels; after a change everything is read again
REJECTED_FILE = "rejected.csv"
NO_PATIENT_ID = "no patient identifier, in the header or in a table"
_INGESTED_SOURCE = {"_target_": "fedhealth.data.ingested_dataset.IngestedDataset"}
_LISTED = 5


@dataclass(frozen=True)
class IngestResult:
    """The result of an ingest.

    Attributes:
        folder: of the dataset.
        dataset: the dataset as training loads it.
        records: the records of all files and series, sorted by name.
        headers: by the name of a series, the record of one of its files.
        joined: the manifest's rows, with statistics of the join.
        tables: the hospital's tables.
        rejected: (name, reason) of rejected files and series.

    """

    folder: Path
    dataset: SiteDataset
    records: list[IngestRecord]
    headers: dict[str, IngestRecord]
    joined: JoinResult
    tables: list[TableRows]
    rejected: list[tuple[str, str]]


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
        ConfigError: another ingest is using the folder.
        DataError: there is nothing to read, too many files are rejected, or the tables do not match the settings.

    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    source: IngestSource = instantiate(settings.source)
    options = ExamineOptions(source, settings.select, settings.image, data.image.size, data.image.channels)
    kind = np.dtype("u1" if settings.image.bits == 8 else "<u2")
    shape = (data.image.channels, data.image.size, data.image.size)
    items = list_files(source)
    names = (item.name for item in items)
    with _lock_folder(folder), IngestStore(folder, names, shape, kind, _describe_processing(options)) as store:
        records = examine_files(store, options, settings, items, workers, progress)
        stacks, headers = examine_series(store, options, settings, records, workers, progress)
        records = sorted([*records, *stacks], key=lambda record: record.name)
        tables = read_tables(settings, progress)
        lost = set(find_unidentified((record for record in records if record.pictures), tables, headers))
        rejected = _list_rejected(records, lost)
        _write_rejected(folder, rejected)
        _check_rejected_share(rejected, sum(bool(record.pictures) for record in records) - len(lost), data.max_rejected)
        images, records = store.finish(records)
        joined = join_tables((record for record in records if record.name not in lost), tables, headers)
        _write_dataset(folder, joined, data, images)
        store.remove_old_files(images)
    ready = replace(data, root=str(folder), manifest=MANIFEST_FILE, site_column=None, source=_INGESTED_SOURCE)
    return IngestResult(folder, prepare_dataset(ready, settings.site), records, headers, joined, tables, rejected)


@contextmanager
def _lock_folder(folder: Path) -> Iterator[None]:
    busy = ConfigError(f"Another ingest is using {folder}.", "Wait for it, or stop it first.")
    with lock_file(folder / ".lock", wait=0, error=busy):
        yield


def _describe_processing(options: ExamineOptions) -> str:
    rules = [asdict(rule) for rule in options.select]
    return json.dumps([VERSION, rules, asdict(options.image), options.size, options.channels], sort_keys=True)


def _list_rejected(records: Sequence[IngestRecord], lost: set[str]) -> list[tuple[str, str]]:
    reasons = ((record.name, record.rejected or (NO_PATIENT_ID if record.name in lost else "")) for record in records)
    return [(name, reason) for name, reason in reasons if reason]


def _write_rejected(folder: Path, rejected: Sequence[tuple[str, str]]) -> None:
    listed = pd.DataFrame(rejected, columns=["name", "reason"])
    write_atomic(folder / REJECTED_FILE, listed.to_csv(index=False).encode("utf-8", "backslashreplace"))


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


def _write_dataset(folder: Path, joined: JoinResult, data: DataConfig, images: str) -> None:
    """Write the manifest, and last the file that marks the dataset as complete."""
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
    write_json(folder / INFO_FILE, {"manifest": hashlib.sha256(content).hexdigest(), "images": images})
