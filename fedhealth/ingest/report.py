"""Report the result of an ingest to the hospital's staff: as JSON, and as a page with sample images.

The JSON contains nothing about single patients except the names of rejected files. The page shows images and must stay
at the hospital.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from fedhealth.config.schema import DataConfig
from fedhealth.data.findings import dump_findings
from fedhealth.data.manifest import SPLITS
from fedhealth.ingest.cohort_findings import (
    find_duplicates,
    get_label_names,
    iterate_row_headers,
)
from fedhealth.ingest.header import HeaderFields
from fedhealth.ingest.records import IngestRecord
from fedhealth.ingest.result import IngestResult
from fedhealth.version import __version__

REPORT_FILE, PAGE_FILE = "report.json", "report.html"
_EXAMPLES = 3  # files named for each reason


def build_ingest_report(result: IngestResult, data: DataConfig) -> dict[str, Any]:
    """Return the report as plain JSON values."""
    dataset, fields = result.dataset, [*iterate_row_headers(result)]
    labels = get_label_names(result, data)
    return {
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
            {"path": table.path, "encoding": table.encoding, "rows": len(table), "matched": matched}
            | {"unmatched": unmatched, "request": table.request}
            for table, matched, unmatched in zip(
                result.tables, result.joined.matched, result.joined.unmatched, strict=True
            )
        ],
        "contradictions": dict(result.joined.contradictions),
        "duplicates": {name: vars(each) for name, each in find_duplicates(result).items()},
        "telling": [dict(each) for each in result.leaks],
        "findings": dump_findings(dataset.findings),
    }


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


def _count_labels_by_split(words: np.ndarray, split: np.ndarray) -> dict[str, dict[str, int]]:
    kinds = sorted(set(words.tolist()), key=lambda word: (word == "", word))
    return {word or "unlabelled": _count_by_split(words == word, split) for word in kinds}


def _count_missing(result: IngestResult, data: DataConfig) -> dict[str, int]:
    rows, counts = result.joined.rows, {}
    for name in ("text", *data.columns.labels, *data.tabular):
        counts[name] = sum(not row.cells.get(name) for row in rows)
    return {"image": sum(row.slot is None for row in rows)} | counts
