"""The whole ingest: examine every file once, choose from series, join the tables, write the cohort and its report."""

from __future__ import annotations

import fcntl
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
from fedhealth.data.dataset import Cohort, prepare
from fedhealth.data.ingested import ABOUT, MANIFEST, STRUCTURE
from fedhealth.errors import ConfigError, DataError
from fedhealth.ingest.examine import Work
from fedhealth.ingest.join import Joined, join, nameless
from fedhealth.ingest.pipeline import Progress, examined, listed, read_tables, stacked
from fedhealth.ingest.records import Entry
from fedhealth.ingest.settings import Settings
from fedhealth.ingest.source import Source
from fedhealth.ingest.store import Store
from fedhealth.ingest.tables import Rows
from fedhealth.utils.atomic_io import write_atomic, write_json

VERSION = 2  # of what turns a file into pixels; another one reads everything again
REJECTED = "rejected.csv"
NAMELESS = "no patient identifier, in the header or in a table"
_INGESTED = {"_target_": "fedhealth.data.ingested.Ingested"}
_LISTED = 5


@dataclass(frozen=True)
class Outcome:
    """What an ingest made.

    Attributes:
        folder: of the cohort.
        cohort: as training will see it.
        entries: what became of every file and series, sorted by name.
        headers: for the name of a series, the entry of one of its files.
        joined: its rows.
        tables: as read.
        rejected: (name, reason) of what was set aside.

    """

    folder: Path
    cohort: Cohort
    entries: list[Entry]
    headers: dict[str, Entry]
    joined: Joined
    tables: list[Rows]
    rejected: list[tuple[str, str]]


def ingest(settings: Settings, data: DataConfig, folder: Path, workers: int, progress: Progress) -> Outcome:
    """Make or renew the cohort in `folder`; what has not changed is not read again.

    Args:
        settings: the hospital's.
        data: the consortium's description of these data.
        folder: where the cohort lies, private to the hospital.
        workers: how many processes read files.
        progress: told how far it is.

    Raises:
        ConfigError: another ingest is working on the folder.
        DataError: there is nothing to read, too much was set aside, or the tables are not what was said.

    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    source: Source = instantiate(settings.source)
    work = Work(source, settings.select, settings.image, data.image.size, data.image.channels)
    kind = np.dtype("u1" if settings.image.bits == 8 else "<u2")
    shape = (data.image.channels, data.image.size, data.image.size)
    items = listed(source)
    names = (item.name for item in items)
    with _held(folder), Store(folder, names, shape, kind, _meaning(work)) as store:
        entries = examined(store, work, settings, items, workers, progress)
        stacks, headers = stacked(store, work, settings, entries, workers, progress)
        entries = sorted([*entries, *stacks], key=lambda entry: entry.name)
        tables = read_tables(settings, progress)
        lost = set(nameless((entry for entry in entries if entry.pictures), tables, headers))
        rejected = _rejected(entries, lost)
        _write_rejected(folder, rejected)
        _refuse_too_many(rejected, sum(bool(entry.pictures) for entry in entries) - len(lost), data.max_rejected)
        images, entries = store.finish(entries)
        joined = join((entry for entry in entries if entry.name not in lost), tables, headers)
        _write_cohort(folder, joined, data, images)
        store.tidy(images)
    ready = replace(data, root=str(folder), manifest=MANIFEST, site_column=None, source=_INGESTED)
    return Outcome(folder, prepare(ready, settings.site), entries, headers, joined, tables, rejected)


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as fault:
            raise ConfigError(f"Another ingest is working on {folder}.", "Wait for it, or stop it first.") from fault
        yield


def _meaning(work: Work) -> str:
    rules = [asdict(rule) for rule in work.select]
    return json.dumps([VERSION, rules, asdict(work.image), work.size, work.channels], sort_keys=True)


def _rejected(entries: Sequence[Entry], lost: set[str]) -> list[tuple[str, str]]:
    reasons = ((entry.name, entry.rejected or (NAMELESS if entry.name in lost else "")) for entry in entries)
    return [(name, reason) for name, reason in reasons if reason]


def _write_rejected(folder: Path, rejected: Sequence[tuple[str, str]]) -> None:
    listed = pd.DataFrame(rejected, columns=["name", "reason"])
    write_atomic(folder / REJECTED, listed.to_csv(index=False).encode("utf-8", "backslashreplace"))


def _refuse_too_many(rejected: Sequence[tuple[str, str]], accepted: int, limit: float) -> None:
    total = len(rejected) + accepted
    if len(rejected) <= limit * total:
        return
    reasons = Counter(reason for _, reason in rejected).most_common()
    shown = "\n".join(f"  {count:6} {reason}" for reason, count in reasons[:_LISTED])
    more = f"\n  and {len(reasons) - _LISTED} more reasons" if len(reasons) > _LISTED else ""
    raise DataError(
        f"{len(rejected)} of {total} images were set aside:\n{shown}{more}",
        f"{REJECTED} in the cohort's folder names them. Repair or remove them, or raise data.max_rejected "
        f"(now {limit:g}) if they may be left out. What is done is kept.",
    )


def _write_cohort(folder: Path, joined: Joined, data: DataConfig, images: str) -> None:
    """Write the manifest, and last the file that says that it is complete."""
    further = [*data.columns.labels, *(name for name in data.tabular if name not in data.columns.labels)]
    table = {
        "patient": [row.keys["patient"] for row in joined.rows],
        "study": [row.study for row in joined.rows],
        "image": ["" if row.slot is None else str(row.slot) for row in joined.rows],
        **{name: [row.cells.get(name, "") for row in joined.rows] for name in ("text", "split", *further)},
    }
    frame = pd.DataFrame(table, columns=[*STRUCTURE, *further])
    content = frame.to_csv(index=False, lineterminator="\n").encode("utf-8", "replace")
    write_atomic(folder / MANIFEST, content)
    write_json(folder / ABOUT, {"manifest": hashlib.sha256(content).hexdigest(), "images": images})
