"""Report the result of an ingest to the hospital's staff: as JSON, and as a page with sample images.

The JSON contains nothing about single patients except the names of rejected files. The page shows images and must stay
at the hospital.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from fedhealth import __version__
from fedhealth.config.schema import DataConfig, TaskKind
from fedhealth.data.dataset import SiteDataset
from fedhealth.data.manifest import SPLITS
from fedhealth.ingest import phi_warnings
from fedhealth.ingest.header import HeaderFields
from fedhealth.ingest.ingest_files import IngestResult
from fedhealth.ingest.leakage import SUSPICIOUS_AUROC, TextLeakage, count_duplicates, measure_text_leakage
from fedhealth.ingest.records import IngestRecord

REPORT_FILE, PAGE_FILE = "report.json", "report.html"
_EXAMPLES = 3  # files named for each reason
_LONG = 40  # reports from this length on are not equal by chance
_FEW = 0.05  # if a table matches at most this share of its rows, its keys may be wrong


def build_ingest_report(result: IngestResult, data: DataConfig) -> dict[str, Any]:
    """Return the report as plain JSON values."""
    dataset, fields = result.dataset, [*_iterate_row_headers(result)]
    labels = _get_label_names(result, data)
    report: dict[str, Any] = {
        "site": dataset.site,
        "data": data.name,
        "fedhealth": __version__,
        "files": _summarize_files(result.records, result.rejected),
        "cohort": dataset.counts(),
        "images": {"shape": list(dataset.images.shape[1:]), "bits": 8 * dataset.images.dtype.itemsize},
        "modalities": _count_modalities(result, fields),
        "labels": {name: _count_labels_by_split(words, dataset.split) for name, words in labels.items()},
        "missing": _count_missing(result, data),
        "tables": [
            {"path": table.path, "encoding": table.encoding or "Parquet", "rows": len(table), "matched": matched}
            | {"unmatched": unmatched}
            for table, matched, unmatched in zip(
                result.tables, result.joined.matched, result.joined.unmatched, strict=True
            )
        ],
        "contradictions": dict(result.joined.contradictions),
        "duplicates": _find_duplicates(result),
        "telling": [*_find_text_leakage(result, labels, data, fields)],
        "privacy": phi_warnings.find_phi_warnings([each for each in fields if each], dataset.texts),
    }
    return report | {"warnings": [*_build_warnings(report), *_build_column_warnings(report, dataset)]}


def _iterate_row_headers(result: IngestResult) -> Iterator[HeaderFields | None]:
    """Yield the header fields of each row's image; None for a row without image."""
    by_slot: dict[int, HeaderFields | None] = {}
    for record in result.records:
        header = result.headers.get(record.name, record).fields
        by_slot |= {picture.slot: header for picture in record.pictures}
    for slot in result.dataset.image_index.tolist():
        yield by_slot.get(slot)


def _summarize_files(records: Sequence[IngestRecord], rejected: Sequence[tuple[str, str]]) -> dict[str, Any]:
    named = defaultdict(list)
    for name, reason in rejected:
        named[reason].append(name)
    return {
        "examined": sum(not record.name.startswith("series ") for record in records),
        "images": sum(len(record.pictures) for record in records),
        "left_out": dict(Counter(record.left_out for record in records if record.left_out).most_common()),
        "rejected": {
            reason: {"count": len(names), "examples": names[:_EXAMPLES]}
            for reason, names in sorted(named.items(), key=lambda each: -len(each[1]))
        },
    }


def _count_modalities(result: IngestResult, fields: Sequence[HeaderFields | None]) -> dict[str, dict[str, int]]:
    """Count rows with an image of each DICOM modality, with a text and with values, by split."""
    dataset = result.dataset
    counts: dict[str, dict[str, int]] = {}
    for name in sorted({each.modality or "unknown" for each in fields if each}):
        has = np.array([each is not None and (each.modality or "unknown") == name for each in fields])
        counts[f"image {name}"] = _count_by_split(has, dataset.split)
    counts["text"] = _count_by_split(np.array([bool(text) for text in dataset.texts]), dataset.split)
    counts["tabular"] = _count_by_split(dataset.tabular_present, dataset.split)
    return counts


def _count_by_split(has: np.ndarray, split: np.ndarray) -> dict[str, int]:
    return {name: int((has & (split == number)).sum()) for number, name in enumerate(SPLITS)}


def _get_label_names(result: IngestResult, data: DataConfig) -> dict[str, np.ndarray]:
    """Return the class name of each label in each row; empty = unlabelled."""
    words: Sequence[str] = data.task.classes
    named = {}
    for column, name in enumerate(data.columns.labels):
        values = result.dataset.labels[:, column]
        known = ["no", "yes"] if data.task.kind is TaskKind.multilabel else words
        named[name] = np.array(["" if np.isnan(value) else known[int(value)] for value in values], object)
    return named


def _count_labels_by_split(words: np.ndarray, split: np.ndarray) -> dict[str, dict[str, int]]:
    kinds = sorted(set(words.tolist()), key=lambda word: (word == "", word))
    return {word or "unlabelled": _count_by_split(words == word, split) for word in kinds}


def _count_missing(result: IngestResult, data: DataConfig) -> dict[str, int]:
    rows, counts = result.joined.rows, {}
    for name in ("text", *data.columns.labels, *data.tabular):
        counts[name] = sum(not row.cells.get(name) for row in rows)
    return {"image": sum(row.slot is None for row in rows)} | counts


def _find_duplicates(result: IngestResult) -> dict[str, dict[str, int]]:
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
    texts = count_duplicates(reports)
    return {name: vars(each) for name, each in (("images", images), ("reports", texts))}


def _find_text_leakage(
    result: IngestResult, labels: Mapping[str, np.ndarray], data: DataConfig, fields: Sequence[HeaderFields | None]
) -> Iterator[dict[str, Any]]:
    """Yield how well the words of reports, and of headers, predict each class (of two classes, the positive one)."""
    dataset = result.dataset
    first = np.unique(dataset.study, return_index=True)[1]  # one row for each study
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


def _build_column_warnings(report: Mapping[str, Any], dataset: SiteDataset) -> Iterator[str]:
    """Yield the dataset's own warnings; merge those about empty columns into one, because there may be many."""
    empty = [name for name, count in report["missing"].items() if count == len(dataset.split)]
    if empty:
        yield f"No row has a value of {', '.join(empty)}."
    for warning in dataset.warnings:
        if not any(f"column {name!r} " in warning for name in empty):
            yield warning


def _build_warnings(report: Mapping[str, Any]) -> Iterator[str]:
    files, same = report["files"], report["duplicates"]
    if rejected := sum(each["count"] for each in files["rejected"].values()):
        yield f"{rejected} of {files['examined']} files were rejected."
    for what, counts in same.items():
        if counts["images"]:
            yield f"{counts['images']} {what.removesuffix('s')}(s) are copies of others."
        if counts["across_splits"]:
            groups = counts["across_splits"]
            yield f"{groups} group(s) of equal {what} are in several splits; test scores will be too high."
        if counts["across_patients"]:
            yield f"{counts['across_patients']} group(s) of equal {what} belong to several patients."
    for leak in report["telling"]:
        if max(leak["auroc"], 1 - leak["auroc"]) >= SUSPICIOUS_AUROC:
            yield (
                f"The words of the {leak['by']} alone predict {leak['label']}={leak['class']} with AUROC "
                f"{leak['auroc']:.2f}; most predictive: {', '.join(leak['words'])}. "
                "Add words that reveal the label to text.remove."
            )
    for name, count in report["contradictions"].items():
        yield f"Column {name!r}: {count} row(s) are empty because tables contradict each other."
    for table in report["tables"]:
        if table["unmatched"]:
            yield f"{table['path']}: {table['unmatched']} row(s) match no image and name no patient."
        if table["matched"] <= _FEW * table["rows"]:
            yield f"{table['path']}: only {table['matched']} row(s) of the cohort match it; check its keys."
