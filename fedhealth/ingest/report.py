"""What an ingest found, for the people of one hospital: as JSON, and as a page with sample images.

Nothing in the JSON shows a patient but the names of files that were set aside. The page shows images and stays at the
hospital.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from fedhealth import __version__
from fedhealth.config.schema import DataConfig, TaskKind
from fedhealth.data.dataset import Cohort
from fedhealth.data.manifest import SPLITS
from fedhealth.ingest import phi_warnings
from fedhealth.ingest.header import Facts
from fedhealth.ingest.leakage import SUSPICIOUS_AUROC, Wordy, duplicates, words_tell
from fedhealth.ingest.records import Entry
from fedhealth.ingest.run import Outcome

REPORT, PAGE = "report.json", "report.html"
_EXAMPLES = 3  # files named for each reason
_LONG = 40  # characters from which two reports are not equal by chance
_FEW = 0.05  # share of rows with a table's cells below which the keys are doubted


def describe(outcome: Outcome, data: DataConfig) -> dict[str, Any]:
    """Return the report as plain values."""
    cohort, facts = outcome.cohort, [*_facts(outcome)]
    labels = _labels(outcome, data)
    report: dict[str, Any] = {
        "site": cohort.site,
        "data": data.name,
        "fedhealth": __version__,
        "files": _files(outcome.entries, outcome.rejected),
        "cohort": cohort.counts(),
        "images": {"shape": list(cohort.images.shape[1:]), "bits": 8 * cohort.images.dtype.itemsize},
        "modalities": _modalities(outcome, facts),
        "labels": {name: _by_split(words, cohort.split) for name, words in labels.items()},
        "missing": _missing(outcome, data),
        "tables": [
            {"path": table.path, "encoding": table.encoding or "Parquet", "rows": len(table), "matched": matched}
            | {"unmatched": unmatched}
            for table, matched, unmatched in zip(
                outcome.tables, outcome.joined.matched, outcome.joined.unmatched, strict=True
            )
        ],
        "contradictions": dict(outcome.joined.contradictions),
        "duplicates": _duplicates(outcome),
        "telling": [*_telling(outcome, labels, data, facts)],
        "privacy": phi_warnings.warnings([each for each in facts if each], cohort.texts),
    }
    return report | {"warnings": [*_warnings(report), *_of_columns(report, cohort)]}


def _facts(outcome: Outcome) -> Iterator[Facts | None]:
    """Yield what is kept of the header of each row's image; null for a row without one."""
    by_slot: dict[int, Facts | None] = {}
    for entry in outcome.entries:
        header = outcome.headers.get(entry.name, entry).facts
        by_slot |= {picture.slot: header for picture in entry.pictures}
    for slot in outcome.cohort.image_index.tolist():
        yield by_slot.get(slot)


def _files(entries: Sequence[Entry], rejected: Sequence[tuple[str, str]]) -> dict[str, Any]:
    named = defaultdict(list)
    for name, reason in rejected:
        named[reason].append(name)
    return {
        "examined": sum(not entry.name.startswith("series ") for entry in entries),
        "images": sum(len(entry.pictures) for entry in entries),
        "left_out": dict(Counter(entry.left_out for entry in entries if entry.left_out).most_common()),
        "rejected": {
            reason: {"count": len(names), "examples": names[:_EXAMPLES]}
            for reason, names in sorted(named.items(), key=lambda each: -len(each[1]))
        },
    }


def _modalities(outcome: Outcome, facts: Sequence[Facts | None]) -> dict[str, dict[str, int]]:
    """Count rows with an image of each DICOM modality, with a text and with values, by split."""
    cohort = outcome.cohort
    counts: dict[str, dict[str, int]] = {}
    for name in sorted({each.modality or "unknown" for each in facts if each}):
        has = np.array([each is not None and (each.modality or "unknown") == name for each in facts])
        counts[f"image {name}"] = _split_counts(has, cohort.split)
    counts["text"] = _split_counts(np.array([bool(text) for text in cohort.texts]), cohort.split)
    counts["tabular"] = _split_counts(cohort.tabular_present, cohort.split)
    return counts


def _split_counts(has: np.ndarray, split: np.ndarray) -> dict[str, int]:
    return {name: int((has & (split == number)).sum()) for number, name in enumerate(SPLITS)}


def _labels(outcome: Outcome, data: DataConfig) -> dict[str, np.ndarray]:
    """Return each label's word in each row; empty = unlabelled."""
    words: Sequence[str] = data.task.classes
    named = {}
    for column, name in enumerate(data.columns.labels):
        values = outcome.cohort.labels[:, column]
        known = ["no", "yes"] if data.task.kind is TaskKind.multilabel else words
        named[name] = np.array(["" if np.isnan(value) else known[int(value)] for value in values], object)
    return named


def _by_split(words: np.ndarray, split: np.ndarray) -> dict[str, dict[str, int]]:
    kinds = sorted(set(words.tolist()), key=lambda word: (word == "", word))
    return {word or "unlabelled": _split_counts(words == word, split) for word in kinds}


def _missing(outcome: Outcome, data: DataConfig) -> dict[str, int]:
    rows, counts = outcome.joined.rows, {}
    for name in ("text", *data.columns.labels, *data.tabular):
        counts[name] = sum(not row.cells.get(name) for row in rows)
    return {"image": sum(row.slot is None for row in rows)} | counts


def _duplicates(outcome: Outcome) -> dict[str, dict[str, int]]:
    digests = {picture.slot: picture.digest for entry in outcome.entries for picture in entry.pictures}
    cohort = outcome.cohort
    people = [str(patient) for patient in cohort.patient]
    splits = [SPLITS[number] for number in cohort.split]
    slots = zip(cohort.image_index.tolist(), people, splits, strict=True)
    images = duplicates((digests[slot], patient, split) for slot, patient, split in slots if slot >= 0)
    reports = {  # a patient's studies may share one
        (hashlib.sha256(text.encode("utf-8", "replace")).hexdigest(), patient, split)
        for text, patient, split in zip(cohort.texts, people, splits, strict=True)
        if len(text) > _LONG
    }
    texts = duplicates(reports)
    return {name: vars(each) for name, each in (("images", images), ("reports", texts))}


def _telling(
    outcome: Outcome, labels: Mapping[str, np.ndarray], data: DataConfig, facts: Sequence[Facts | None]
) -> Iterator[dict[str, Any]]:
    """Yield how well reports, and headers, tell each class of each label (of two the positive) by their words alone."""
    cohort = outcome.cohort
    first = np.unique(cohort.study, return_index=True)[1]  # one row for each study
    headers = ["" if each is None else f"{each.modality} {each.view} {each.body_part}" for each in facts]
    for by, texts in (("report", cohort.texts), ("header", headers)):
        rows = [row for row in first.tolist() if texts[row].strip()]
        for name, words in labels.items():
            known = [row for row in rows if words[row]]
            kinds = data.task.classes if data.task.kind is not TaskKind.multilabel else ("no", "yes")
            for kind in kinds[1:] if len(kinds) == 2 else kinds:
                found = words_tell(
                    [texts[row] for row in known],
                    np.array([words[row] == kind for row in known], bool),
                    [str(cohort.patient[row]) for row in known],
                )
                yield from [] if found is None else [_told(by, name, kind, found)]


def _told(by: str, name: str, kind: str, found: Wordy) -> dict[str, Any]:
    return {"by": by, "label": name, "class": kind, "auroc": round(found.auroc, 3), "words": list(found.words)}


def _of_columns(report: Mapping[str, Any], cohort: Cohort) -> Iterator[str]:
    """Yield the cohort's own warnings; columns that nobody fills, which a hospital may have many of, in one."""
    empty = [name for name, count in report["missing"].items() if count == len(cohort.split)]
    if empty:
        yield f"No row has a value of {', '.join(empty)}."
    for warning in cohort.warnings:
        if not any(f"column {name!r} " in warning for name in empty):
            yield warning


def _warnings(report: Mapping[str, Any]) -> Iterator[str]:
    files, same = report["files"], report["duplicates"]
    if rejected := sum(each["count"] for each in files["rejected"].values()):
        yield f"{rejected} of {files['examined']} files were set aside."
    for what, counts in same.items():
        if counts["images"]:
            yield f"{counts['images']} {what.removesuffix('s')}(s) are copies of others."
        if counts["across_splits"]:
            yield f"{counts['across_splits']} group(s) of equal {what} lie in several splits; scores will be too good."
        if counts["across_patients"]:
            yield f"{counts['across_patients']} group(s) of equal {what} belong to several patients."
    for told in report["telling"]:
        if max(told["auroc"], 1 - told["auroc"]) >= SUSPICIOUS_AUROC:
            yield (
                f"The words of the {told['by']} alone tell {told['label']}={told['class']} with AUROC "
                f"{told['auroc']:.2f}; most telling: {', '.join(told['words'])}. "
                "Name words that give the label away in text.remove."
            )
    for name, count in report["contradictions"].items():
        yield f"Column {name!r}: {count} row(s) are left empty, since tables contradict each other."
    for table in report["tables"]:
        if table["unmatched"]:
            yield f"{table['path']}: {table['unmatched']} row(s) belong to no image and name no patient."
        if table["matched"] <= _FEW * table["rows"]:
            yield f"{table['path']}: only {table['matched']} row(s) of the cohort are in it; check its keys."
