"""What the files, the tables and their join say about a cohort, as findings for the hospital's people."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

import numpy as np

from fedhealth.config.schema import DataConfig, TaskKind
from fedhealth.data.dataset import SiteDataset
from fedhealth.data.duplicates import Duplicates, count_duplicates, find_duplicate_findings
from fedhealth.data.findings import DataFinding, FindingKind
from fedhealth.data.identifiers import Identifier
from fedhealth.data.manifest import SPLITS
from fedhealth.data.plausibility import find_one_sided
from fedhealth.errors import DataError
from fedhealth.ingest import phi_warnings
from fedhealth.ingest.header import HeaderFields
from fedhealth.ingest.image_content import IMAGE, NAMES
from fedhealth.ingest.join import get_finest_key
from fedhealth.ingest.leakage import SUSPICIOUS_AUROC, TextLeakage, measure_text_leakage
from fedhealth.ingest.match_tables import (
    check_matches,
    find_match_findings,
    find_spelling_variants,
    index_identifiers,
    match_table,
)
from fedhealth.ingest.records import OPTED_OUT, IngestRecord
from fedhealth.ingest.result import IngestResult
from fedhealth.ingest.settings import KEYS, IdentifierSettings
from fedhealth.ingest.tables import TableRows

_LONG = 40  # reports from this length on are not equal by chance
_MANY_STUDIES = 10  # of one patient alone
_MOST_WITHOUT_IMAGE = 0.5  # of the patients, from which on a person should know


def check_tables(
    settings: IdentifierSettings,
    tables: Sequence[TableRows],
    codes: Mapping[str, Mapping[str, str]],
    records: Sequence[IngestRecord],
    headers: Mapping[str, IngestRecord],
) -> list[DataFinding]:
    """Compare the identifiers of tables and images, and return what was found.

    Args:
        settings: of the comparison.
        tables: the hospital's tables.
        codes: of each file's or series' keys, by its name.
        records: of files and series.
        headers: by the name of a series, the record of one of its files.

    Raises:
        DataError: too few identifiers match, or all images have the same patient.

    """
    _check_one_patient(codes)
    fields = [headers.get(record.name, record).fields for record in records if record.name in codes]
    images: dict[str, dict[str, Identifier]] = {}
    for key in KEYS:
        known = {each[key]: Identifier("", "") for each in codes.values() if each[key]}
        images[key] = known | index_identifiers((each.get_identifier(key) for each in fields if each), settings.rules)
    matches = [
        match_table(table, key, images[key], settings.rules) for table in tables for key in [get_finest_key(table)]
    ]
    check_matches(matches, settings)
    return [*find_match_findings(matches, find_spelling_variants(images["patient"], settings.rules))]


def _check_one_patient(codes: Mapping[str, Mapping[str, str]]) -> None:
    patients = {each["patient"] for each in codes.values()}
    studies = {each["study"] for each in codes.values()}
    if len(patients) == 1 and len(studies) >= _MANY_STUDIES:
        raise DataError(
            f"{len(codes)} images of {len(studies)} studies have one patient identifier: probably a placeholder.",
            "Export the images with pseudonyms, or name the patients in a table (keys: {study: ..., patient: ...}).",
        )


def find_ingest_findings(result: IngestResult, data: DataConfig) -> Iterator[DataFinding]:
    """Yield what was found before the rows were prepared: `result.findings`, and what the whole cohort shows."""
    dataset, fields = result.dataset, [*iterate_row_headers(result)]
    yield from result.findings
    yield from _find_patient_findings(result)
    yield from _find_modality_findings(dataset, fields, data)
    for what, found in find_duplicates(result).items():
        yield from find_duplicate_findings(what, found)
    for leak in result.leaks:
        yield from _describe_suspicious_leak(leak)
    yield from _find_table_findings(result)
    yield from _find_content_findings(result)
    yield from _find_unit_findings(fields, data)
    if result.rejected:
        examined = sum(not record.name.startswith("series ") for record in result.records)
        yield DataFinding(FindingKind.files, f"{len(result.rejected)} of {examined} files were rejected.")
    for text in phi_warnings.find_phi_warnings([each for each in fields if each], dataset.texts):
        yield DataFinding(FindingKind.privacy, text)


def iterate_row_headers(result: IngestResult) -> Iterator[HeaderFields | None]:
    """Yield the header fields of each row's image; None for a row without image."""
    by_slot: dict[int, HeaderFields | None] = {}
    for record in result.records:
        header = result.headers.get(record.name, record).fields
        by_slot |= {picture.slot: header for picture in record.pictures}
    for slot in result.dataset.image_index.tolist():
        yield by_slot.get(slot)


def get_label_names(result: IngestResult, data: DataConfig) -> dict[str, np.ndarray]:
    """Return the class name of each label in each row; empty = unlabelled."""
    words: Sequence[str] = data.task.classes
    named = {}
    for column, name in enumerate(data.columns.labels):
        values = result.dataset.labels[:, column]
        known = ["no", "yes"] if data.task.kind is TaskKind.multilabel else words
        named[name] = np.array(["" if np.isnan(value) else known[int(value)] for value in values], object)
    return named


def find_duplicates(result: IngestResult) -> dict[str, Duplicates]:
    """Return the counts of equal images and of equal reports."""
    digests = {picture.slot: picture.digest for record in result.records for picture in record.pictures}
    dataset = result.dataset
    people = [str(patient) for patient in dataset.patient]
    splits = [SPLITS[number] for number in dataset.split]
    slots = zip(dataset.image_index.tolist(), people, splits, strict=True)
    images = count_duplicates((digests[slot], patient, split) for slot, patient, split in slots if slot >= 0)
    reports = {  # a set, because a patient's studies may share a report
        (hashlib.sha256(text.encode("utf-8", "replace")).hexdigest(), patient, split)
        for text, patient, split in zip(dataset.texts, people, splits, strict=True)
        if len(text) > _LONG
    }
    return {"images": images, "reports": count_duplicates(reports)}


def find_text_leakage(result: IngestResult, data: DataConfig) -> Iterator[dict[str, Any]]:
    """Yield how well the words of reports, and of headers, predict each class (of two classes, the positive one)."""
    dataset, labels = result.dataset, get_label_names(result, data)
    first = np.unique(dataset.study, return_index=True)[1]  # one row for each study
    fields = iterate_row_headers(result)
    headers = ["" if each is None else f"{each.modality} {each.view} {each.body_part}" for each in fields]
    for by, texts in (("report", dataset.texts), ("header", headers)):
        rows = [row for row in first.tolist() if texts[row].strip()]
        for name, words in labels.items():
            known = [row for row in rows if words[row]]
            kinds = data.task.classes if data.task.kind is not TaskKind.multilabel else ("no", "yes")
            for kind in kinds[1:] if len(kinds) == 2 else kinds:
                found = measure_text_leakage(
                    [texts[row] for row in known],
                    np.array([words[row] == kind for row in known], bool),
                    [str(dataset.patient[row]) for row in known],
                )
                yield from [] if found is None else [_describe_leakage(by, name, kind, found)]


def _describe_leakage(by: str, name: str, kind: str, found: TextLeakage) -> dict[str, Any]:
    return {"by": by, "label": name, "class": kind, "auroc": round(found.auroc, 3), "words": list(found.words)}


def _describe_suspicious_leak(leak: Mapping[str, Any]) -> Iterator[DataFinding]:
    if max(leak["auroc"], 1 - leak["auroc"]) >= SUSPICIOUS_AUROC:
        text = (
            f"The words of the {leak['by']} alone predict {leak['label']}={leak['class']} with AUROC "
            f"{leak['auroc']:.2f}; most predictive: {', '.join(leak['words'])}. "
            "Add words that reveal the label to text.remove."
        )
        yield DataFinding(FindingKind.leakage, text, True)


def _find_patient_findings(result: IngestResult) -> Iterator[DataFinding]:
    patients = {row.keys["patient"] for row in result.joined.rows}
    imaged = {row.keys["patient"] for row in result.joined.rows if row.slot is not None}
    if len(patients) - len(imaged) >= _MOST_WITHOUT_IMAGE * len(patients):
        text = f"The cohort has {len(patients)} patients, images are of {len(imaged)}: the others are in tables only."
        yield DataFinding(FindingKind.patients, text, True)


def _find_modality_findings(
    dataset: SiteDataset, fields: Sequence[HeaderFields | None], data: DataConfig
) -> Iterator[DataFinding]:
    names = Counter(each.modality for each in fields if each)
    for name in names if len(names) > 1 else ():
        has = np.array([each is not None and each.modality == name for each in fields], bool)
        yield from find_one_sided(f"an image of modality {name or 'unknown'}", has, dataset.labels, data)


def _find_unit_findings(fields: Sequence[HeaderFields | None], data: DataConfig) -> Iterator[DataFinding]:
    scans = sum(each is not None and each.modality in ("CT", "PT") for each in fields)
    if scans and data.image.window is None:
        text = f"{scans} CT or PET image(s) have the grey values of their own headers' windows: set data.image.window."
        yield DataFinding(FindingKind.units, text, True)


def _find_content_findings(result: IngestResult) -> Iterator[DataFinding]:
    left_out = Counter(record.left_out for record in result.records)
    if archives := left_out["no image but an archive"]:
        yield DataFinding(FindingKind.files, f"{archives} archive(s) are not unpacked; they may contain images.")
    rows = sum(table.dropped for table in result.tables)
    if left_out[OPTED_OUT] or rows:
        text = f"{left_out[OPTED_OUT]} file(s) and {rows} table row(s) of excluded patients are left out."
        yield DataFinding(FindingKind.privacy, text)
    stored = [record for record in result.records if record.pictures and record.fields]
    for content, count in Counter(record.fields.content for record in stored if record.fields).items():
        if content != IMAGE:
            text = (
                f"{count} file(s) of the cohort are no images of a patient but {NAMES[content]}, as `select` demands."
            )
            yield DataFinding(FindingKind.images, text, content in ("segmentation", "dose"))


def _find_table_findings(result: IngestResult) -> Iterator[DataFinding]:
    for name, count in result.joined.contradictions.items():
        text = f"Column {name!r}: {count} row(s) are empty because tables contradict each other."
        yield DataFinding(FindingKind.tables, text)
    for table, unmatched in zip(result.tables, result.joined.unmatched, strict=True):
        yield from table.findings
        if unmatched:
            text = f"{PurePath(table.path).name}: {unmatched} row(s) match no image and name no patient."
            yield DataFinding(FindingKind.tables, text)
