"""Count equal images and equal texts, by the digests of their content."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from fedhealth.data.findings import DataFinding, FindingKind


@dataclass(frozen=True)
class Duplicates:
    """Counts of images that occur more than once.

    Attributes:
        images: how many copies there are, not counting the first of each.
        across_patients: groups whose images belong to several patients.
        across_splits: groups whose images are in several splits.

    """

    images: int
    across_patients: int
    across_splits: int


def count_duplicates(images: Iterable[tuple[str, str, str]]) -> Duplicates:
    """Count equal images.

    Args:
        images: (digest of the pixels, patient, split) of each.

    """
    patients, splits, counts = defaultdict(set), defaultdict(set), Counter[str]()
    for digest, patient, split in images:
        patients[digest].add(patient)
        splits[digest].add(split)
        counts[digest] += 1
    return Duplicates(
        sum(count - 1 for count in counts.values()),
        sum(len(each) > 1 for each in patients.values()),
        sum(len(each) > 1 for each in splits.values()),
    )


def find_duplicate_findings(what: str, found: Duplicates) -> Iterator[DataFinding]:
    """Yield what a person must know of the copies.

    Args:
        what: images or reports.
        found: their counts.

    """
    if found.images:
        yield DataFinding(FindingKind.duplicates, f"{found.images} {what.removesuffix('s')}(s) are copies of others.")
    if found.across_splits:
        text = f"{found.across_splits} group(s) of equal {what} are in several splits; test scores will be too high."
        yield DataFinding(FindingKind.duplicates, text, True)
    if found.across_patients:
        text = f"{found.across_patients} group(s) of equal {what} belong to several patients: one with two identifiers?"
        yield DataFinding(FindingKind.duplicates, text, what == "images")
