"""The record of one file or series: one line of JSON in items.jsonl."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from fedhealth.ingest.header import HeaderFields

OPTED_OUT = "of a patient who is excluded"  # the reason why a file is left out


class StoredImage(NamedTuple):
    """Where an image's pixels are stored: file (empty = the finished image file) and slot, and their digest."""

    file: str
    slot: int
    digest: str


@dataclass(frozen=True, slots=True)
class IngestRecord:
    """The result for one file or series.

    Attributes:
        name: of the file; the name of a series begins with `series `.
        stamp: changes when the content changes.
        fields: the header fields that are kept.
        rule: index of the rule that selected it.
        left_out: why a valid file is not part of the dataset; empty otherwise.
        rejected: why the file cannot be used; empty otherwise.
        pictures: its images.

    """

    name: str
    stamp: str
    fields: HeaderFields | None
    rule: int | None
    left_out: str
    rejected: str
    pictures: tuple[StoredImage, ...]


def format_record(record: IngestRecord) -> str:
    """Return the record as a line of JSON."""
    content = {name: getattr(record, name) for name in ("name", "stamp", "rule", "left_out", "rejected", "pictures")}
    content["facts"] = vars(record.fields) if record.fields else None
    return json.dumps(content) + "\n"


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the complete lines; the last line may be truncated."""
    with path.open(encoding="ascii", errors="replace") as file:
        for line in file:
            try:
                content = json.loads(line)
            except ValueError:
                continue
            if isinstance(content, dict):
                yield content


def parse_record(content: dict[str, Any]) -> IngestRecord | None:
    """Return the record of a parsed line, or None if it is not a record."""
    try:
        fields = content["facts"]
        if fields:
            fields["spacing"] = None if fields["spacing"] is None else tuple(fields["spacing"])
        pictures = tuple(StoredImage(str(file), int(slot), str(digest)) for file, slot, digest in content["pictures"])
        words = (content["left_out"], content["rejected"], pictures)
        return IngestRecord(
            content["name"], content["stamp"], HeaderFields(**fields) if fields else None, content["rule"], *words
        )
    except (KeyError, TypeError, ValueError):
        return None
