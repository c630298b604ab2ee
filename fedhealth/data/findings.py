"""What a person must know of a cohort before training on it: one typed list, stored with the cohort.

Findings may quote exact counts of patients. They are for the hospital's own people: a site shows them in `site ingest`,
`site check` and its log, and sends none of them to the lead.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class FindingKind(StrEnum):
    """What a finding is about."""

    identifiers = "identifiers"
    patients = "patients"
    labels = "labels"
    modalities = "modalities"
    duplicates = "duplicates"
    images = "images"
    units = "units"
    values = "values"
    texts = "texts"
    tables = "tables"
    files = "files"
    leakage = "leakage"
    privacy = "privacy"


@dataclass(frozen=True)
class DataFinding:
    """One finding.

    Attributes:
        kind: what it is about.
        text: one or two sentences, without identifiers or cells of single patients.
        serious: whether the cohort is probably wrong; otherwise it may be intended.

    """

    kind: FindingKind
    text: str
    serious: bool = False


def sort_findings(findings: Iterable[DataFinding]) -> tuple[DataFinding, ...]:
    """Return each finding once, serious ones first, otherwise in the given order."""
    return tuple(sorted(dict.fromkeys(findings), key=lambda each: not each.serious))


def dump_findings(findings: Sequence[DataFinding]) -> list[dict[str, Any]]:
    """Return the findings as plain JSON values."""
    return [asdict(each) for each in findings]


def parse_findings(content: Iterable[Mapping[str, Any]]) -> tuple[DataFinding, ...]:
    """Return findings from JSON values.

    Raises:
        KeyError, TypeError, ValueError: they are not findings.

    """
    return tuple(DataFinding(FindingKind(each["kind"]), str(each["text"]), each["serious"] is True) for each in content)
