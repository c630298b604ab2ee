"""Remove excluded patients from a cohort, and write down what was removed."""

from __future__ import annotations

import hashlib
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from fedhealth.config.schema import DataConfig
from fedhealth.data.ingested_dataset import INFO_FILE, IngestInfo, read_ingest_info
from fedhealth.errors import ConfigError, DataError
from fedhealth.ingest.exclusions import read_exclusions
from fedhealth.ingest.ingest_files import ingest_files
from fedhealth.ingest.pipeline import IngestProgress
from fedhealth.ingest.records import OPTED_OUT
from fedhealth.ingest.report import PAGE_FILE, REPORT_FILE, build_ingest_report
from fedhealth.ingest.report_page import render_page
from fedhealth.ingest.settings import IngestSettings
from fedhealth.ingest.store import ITEMS
from fedhealth.utils.atomic_io import write_atomic, write_json

PROOF_FILE = "purge.json"


@dataclass(frozen=True)
class PurgeProof:
    """What a purge did.

    Attributes:
        time: seconds since 1970.
        list_sha256: of the list of excluded patients.
        patients: number of identifiers in the list; a header counts too.
        files: number of files of these patients that are in the source and left out.
        rows: number of their table rows that are left out.
        caches: names of the deleted caches of earlier trainings.
        before: digests of the manifest and of the images before.
        after: the same, after.

    """

    time: float
    list_sha256: str
    patients: int
    files: int
    rows: int
    caches: tuple[str, ...]
    before: tuple[str, str]
    after: tuple[str, str]


def purge_excluded(
    settings: IngestSettings, data: DataConfig, folder: Path, workers: int, progress: IngestProgress
) -> PurgeProof:
    """Ingest again without the excluded patients, check that nothing of them is left, and write the proof.

    Raises:
        ConfigError: the settings exclude nobody.
        FedhealthError: as for an ingest.

    """
    if settings.exclude is None:
        raise ConfigError("The settings have no list of excluded patients.", "Add exclude: FILE.")
    before = read_ingest_info(folder) if (folder / INFO_FILE).is_file() else IngestInfo("", "")
    excluded = read_exclusions(settings.exclude)
    result = ingest_files(settings, data, folder, workers, progress)
    report = build_ingest_report(result, data)
    write_json(folder / REPORT_FILE, report)
    write_atomic(folder / PAGE_FILE, render_page(report, result.dataset).encode())
    after = read_ingest_info(folder)
    content = (folder / ITEMS).read_text("ascii")
    if left := sum(code in content for code in excluded):
        raise DataError(f"{folder}: {left} excluded patient(s) are still in {ITEMS}.", "Delete the folder.")
    proof = PurgeProof(
        time=time.time(),
        list_sha256=hashlib.sha256(settings.exclude.read_bytes()).hexdigest(),
        patients=len(excluded),
        files=sum(record.left_out == OPTED_OUT for record in result.records),
        rows=sum(table.dropped for table in result.tables),
        caches=result.purged,
        before=(before.manifest, before.images),
        after=(after.manifest, after.images),
    )
    write_json(folder / PROOF_FILE, asdict(proof))
    return proof
