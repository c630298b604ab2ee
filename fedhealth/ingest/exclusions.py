"""Patients who are left out, because they opted out or withdrew: nothing of theirs is stored.

The list is a table whose first column has Patient IDs. It applies to every spelling of an identifier, because leaving
out too many patients harms nobody. An entry is a loose code (`Identifier.code`).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from fedhealth.data.identifiers import check_lost_digits, make_identifier
from fedhealth.data.read_table import read_table
from fedhealth.ingest.records import OPTED_OUT, IngestRecord
from fedhealth.ingest.tables import TableRows


def read_exclusions(path: Path | None) -> frozenset[str]:
    """Return the codes of the excluded patients.

    The first line counts as an entry too, because the list may have no header.

    Raises:
        DataError: the list is missing, is no table, or its identifiers were rounded.

    """
    if path is None:
        return frozenset()
    table = read_table(path)
    name, cells = next(iter(table.columns.items()))
    check_lost_digits(f"{path}: column {name!r}", cells)
    return frozenset(make_identifier("patient", cell).code for cell in (name, *cells)) - {""}


def make_excluded_record(name: str) -> IngestRecord:
    """Return the record of a file of an excluded patient: only that it exists; the next ingest looks at it again."""
    return IngestRecord(name, "", None, None, OPTED_OUT, "", ())


def drop_excluded(
    records: Sequence[IngestRecord], codes: Mapping[str, Mapping[str, str]], tables: Iterable[TableRows]
) -> list[IngestRecord]:
    """Return the records; those that belong to excluded patients by a table only are dropped.

    Args:
        records: of files and series.
        codes: of each file's or series' keys, by its name.
        tables: the hospital's tables.

    """
    excluded = {(key, code) for table in tables for key, found in table.excluded.items() for code in found}
    if not excluded:
        return list(records)
    lost = {name for name, keys in codes.items() if not excluded.isdisjoint(keys.items())}
    return [make_excluded_record(record.name) if record.name in lost else record for record in records]


def purge_caches(cache: Path, cohort: Path, keep: str) -> list[Path]:
    """Delete what earlier trainings derived from a cohort: rows, texts and features; return the deleted folders.

    Args:
        cache: folder of a site's caches.
        cohort: folder of the cohort.
        keep: name of the cache of the cohort as it is now.

    """
    purged = []
    for images in sorted(cache.glob("*/images.npy")):
        is_of_cohort = images.is_symlink() and images.readlink().parent == cohort.resolve()
        if is_of_cohort and images.parent.name != keep:
            shutil.rmtree(images.parent)
            purged.append(images.parent)
    return purged
