"""What became of a file or series, as it is written down: one line of JSON each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from fedhealth.ingest.header import Facts


class Kept(NamedTuple):
    """Where an image's pixels are: slot and file (empty: the finished cache), and their digest."""

    file: str
    slot: int
    digest: str


@dataclass(frozen=True, slots=True)
class Entry:
    """What became of one file or series.

    Attributes:
        name: of the file; of a series it begins with `series `.
        stamp: what changes when its content does.
        facts: what is kept of its header.
        rule: the number of the one that chose it.
        left_out: why it is no part of the cohort though nothing is wrong with it.
        rejected: why it was set aside.
        pictures: its images.

    """

    name: str
    stamp: str
    facts: Facts | None
    rule: int | None
    left_out: str
    rejected: str
    pictures: tuple[Kept, ...]


def line_of(entry: Entry) -> str:
    """Return an entry's line."""
    content = {name: getattr(entry, name) for name in ("name", "stamp", "rule", "left_out", "rejected", "pictures")}
    content["facts"] = vars(entry.facts) if entry.facts else None
    return json.dumps(content) + "\n"


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield whole lines; the last one may have been cut off."""
    with path.open(encoding="ascii", errors="replace") as file:
        for line in file:
            try:
                content = json.loads(line)
            except ValueError:
                continue
            if isinstance(content, dict):
                yield content


def entry_of(content: dict[str, Any]) -> Entry | None:
    """Return the entry of a line; null where it is none."""
    try:
        facts = content["facts"]
        if facts:
            facts["spacing"] = None if facts["spacing"] is None else tuple(facts["spacing"])
        pictures = tuple(Kept(str(file), int(slot), str(digest)) for file, slot, digest in content["pictures"])
        words = (content["left_out"], content["rejected"], pictures)
        return Entry(content["name"], content["stamp"], Facts(**facts) if facts else None, content["rule"], *words)
    except (KeyError, TypeError, ValueError):
        return None
