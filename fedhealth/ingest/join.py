"""Join images and tables into the cohort's rows: pure functions of codes and cells.

An image's row takes what the tables say of its file, instance, accession, study or patient, by the finest key that a
table has. A table's row whose key no image has becomes a row without image where it names a patient.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from fedhealth.ingest.header import code
from fedhealth.ingest.records import Entry
from fedhealth.ingest.settings import KEYS
from fedhealth.ingest.tables import Rows


@dataclass
class Row:
    """One row of the manifest: one image, or a study without any.

    Attributes:
        keys: codes by the names in `KEYS`; empty = unknown.
        study: code of the study.
        slot: of its image; null without one.
        cells: of the consortium's columns; empty where tables contradict each other.

    """

    keys: dict[str, str]
    study: str
    slot: int | None
    cells: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Joined:
    """What came of it.

    Attributes:
        rows: of the manifest, in its order.
        unmatched: for each table, how many of its rows belong to no image and name no patient.
        matched: for each table, how many rows of the manifest it says something of.
        contradictions: for each column, how many rows were left empty because two cells differ.

    """

    rows: list[Row]
    unmatched: list[int]
    matched: list[int]
    contradictions: Mapping[str, int]


class _Indexed:
    """A table, and where in it each code of its finest key stands."""

    def __init__(self, table: Rows) -> None:
        self.table, self.key = table, next(key for key in KEYS if key in table.keys)
        self.places: defaultdict[str, list[int]] = defaultdict(list)
        for place, each in enumerate(table.keys[self.key]):
            if each:
                self.places[each].append(place)

    def one(self, key: str, places: Iterable[int]) -> str:
        """Return the code that some rows have in common for a key; empty where they have none."""
        codes = self.table.keys.get(key)
        found = {codes[place] for place in places} - {""} if codes else set()
        return found.pop() if len(found) == 1 else ""


def nameless(entries: Iterable[Entry], tables: Sequence[Rows], headers: Mapping[str, Entry]) -> list[str]:
    """Return the names of files and series whose patient neither header nor tables tell; arguments as for `join`."""
    indexed = [_Indexed(table) for table in tables]
    rows = ((entry.name, _image_row(entry, headers.get(entry.name, entry), 0, indexed)) for entry in entries)
    return [name for name, row in rows if not row.keys["patient"]]


def join(entries: Iterable[Entry], tables: Sequence[Rows], headers: Mapping[str, Entry]) -> Joined:
    """Join.

    Args:
        entries: of files and series with images of known patients, in the order of the cache.
        tables: as read.
        headers: for the name of a series, the entry of one of its files.

    """
    indexed = [_Indexed(table) for table in tables]
    owned = ((entry, headers.get(entry.name, entry), picture) for entry in entries for picture in entry.pictures)
    rows = [_image_row(entry, header, picture.slot, indexed) for entry, header, picture in owned]
    finest_first = sorted(indexed, key=lambda each: KEYS.index(each.key))
    unmatched = {id(each): _add_imageless(rows, each) for each in finest_first}
    contradictions: Counter[str] = Counter()
    matched = [_fill(rows, each, contradictions) for each in indexed]
    rows.sort(key=lambda row: (row.keys["patient"], row.study, row.slot is None, row.slot or 0))
    return Joined(rows, [unmatched[id(each)] for each in indexed], matched, dict(contradictions))


def _image_row(entry: Entry, header: Entry, slot: int, tables: Sequence[_Indexed]) -> Row:
    facts = header.facts
    keys = {key: str(getattr(facts, key, "")) for key in KEYS} | {"file": code("file", header.name)}
    for each in tables:  # where the header names no patient, a table may
        keys["patient"] = keys["patient"] or each.one("patient", each.places.get(keys[each.key], ()))
    return Row(keys, keys["study"] or keys["accession"] or getattr(facts, "series", "") or keys["file"], slot)


def _add_imageless(rows: list[Row], table: _Indexed) -> int:
    """Add rows for patients and studies of the table without image; return how many of its rows name no patient."""
    there = {row.keys[table.key] for row in rows}
    unmatched = table.table.keys[table.key].count("")
    for each, places in table.places.items():
        if each in there:
            continue
        keys = {key: table.one(key, places) for key in KEYS}
        if keys["patient"]:
            rows.append(Row(keys, keys["study"] or keys["accession"] or each, None))
        else:
            unmatched += len(places)
    return unmatched


def _fill(rows: list[Row], table: _Indexed, contradictions: Counter[str]) -> int:
    """Write the table's cells into the rows; return how many rows it says something of."""
    known = {each: _cells(table.table, places) for each, places in table.places.items()}
    matched = 0
    for row in rows:
        cells = known.get(row.keys[table.key])
        matched += cells is not None
        for name, cell in (cells or {}).items():
            before = row.cells.get(name)
            if before is None or name == "text":
                row.cells[name] = "\n".join(filter(None, (before, cell)))
            elif before != cell:
                row.cells[name] = ""
            contradictions.update([name] * (not row.cells[name]))
    return matched


def _cells(table: Rows, places: Sequence[int]) -> dict[str, str]:
    """Return what several rows say together: all texts, and every other cell; empty where they differ in one."""
    cells = {}
    for name, column in table.cells.items():
        found = list(dict.fromkeys(column[place] for place in places if column[place]))
        if found:
            cells[name] = "\n".join(found) if name == "text" else found[0] * (len(found) == 1)
    return cells
