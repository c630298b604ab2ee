"""The result of an ingest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedhealth.data.dataset import SiteDataset
from fedhealth.data.findings import DataFinding
from fedhealth.ingest.join import JoinResult
from fedhealth.ingest.records import IngestRecord
from fedhealth.ingest.tables import TableRows


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
        findings: of the files, the tables and the join.
        leaks: how well the words of reports and headers predict each class.
        purged: names of deleted caches of earlier trainings on this cohort.

    """

    folder: Path
    dataset: SiteDataset
    records: list[IngestRecord]
    headers: Mapping[str, IngestRecord]
    joined: JoinResult
    tables: list[TableRows]
    rejected: list[tuple[str, str]]
    findings: tuple[DataFinding, ...]
    leaks: tuple[Mapping[str, Any], ...] = ()
    purged: tuple[str, ...] = ()
