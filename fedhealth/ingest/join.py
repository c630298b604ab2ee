"""Join images and tables into the rows of the manifest: pure functions of codes and cells.

An image's row gets the cells of the table rows with the same file, instance, accession, study or patient; of each
table the finest key is used. A table row without a matching image becomes a row without image if it names a patient.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from fedhealth.data.identifiers import Identifier, hash_identifier, make_code
from fedhealth.ingest.records import IngestRecord
from fedhealth.ingest.settings import KEYS
from fedhealth.ingest.tables import TableRows


@dataclass
class ManifestRow:
    """One row of the manifest: one image, or a study without any.

    Attributes:
        keys: codes by the names in `KEYS`; empty = unknown.
        study: code of the study.
        slot: of its image; None without an image.
        cells: by the consortium's column names; empty if tables contradict each other.

    """

    keys: dict[str, str]
    study: str
    slot: int | None
    cells: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class JoinResult:
    """The joined rows, and statistics of the join.

    Attributes:
        rows: of the manifest, in its order.
        unmatched: for each table, how many of its rows match no image and name no patient.
        matched: for each table, how many images' rows it matches.
        contradictions: for each column, in how many rows it is empty because two cells differ.

    """

    rows: list[ManifestRow]
    unmatched: list[int]
    matched: list[int]
    contradictions: Mapping[str, int]


def get_finest_key(table: TableRows) -> str:
    """Return the key by which a table is joined."""
    return next(key for key in KEYS if key in table.keys)


class _TableIndex:
    """A table with an index of its rows by the codes of its finest key."""

    def __init__(self, table: TableRows) -> None:
        self.table, self.key = table, get_finest_key(table)
        self.places: defaultdict[str, list[int]] = defaultdict(list)
        for place, each in enumerate(table.keys[self.key]):
            if each:
                self.places[each].append(place)

    def get_common_code(self, key: str, places: Iterable[int]) -> str:
        """Return the code that the given rows have in common for a key; empty if they differ or have none."""
        codes = self.table.keys.get(key)
        found = {codes[place] for place in places} - {""} if codes else set()
        return found.pop() if len(found) == 1 else ""


def identify_images(
    records: Iterable[IngestRecord],
    tables: Sequence[TableRows],
    headers: Mapping[str, IngestRecord],
    rules: Sequence[str] = (),
) -> dict[str, dict[str, str]]:
    """Return the codes of each file's or series' keys, by its name; arguments as for `join_tables`."""
    indexed = [_TableIndex(table) for table in tables]
    return {record.name: _find_codes(headers.get(record.name, record), indexed, rules) for record in records}


def join_tables(
    records: Iterable[IngestRecord],
    tables: Sequence[TableRows],
    headers: Mapping[str, IngestRecord],
    rules: Sequence[str] = (),
) -> JoinResult:
    """Join images and tables to manifest rows.

    Args:
        records: records of files and series with images of known patients, in the order of the cache.
        tables: the hospital's tables.
        headers: by the name of a series, the record of one of its files.
        rules: by which patients and accession numbers are compared.

    """
    indexed = [_TableIndex(table) for table in tables]
    owned = ((record, headers.get(record.name, record), picture) for record in records for picture in record.pictures)
    rows = [_make_image_row(header, picture.slot, indexed, rules) for _, header, picture in owned]
    matched = [sum(row.keys[each.key] in each.places for row in rows) for each in indexed]
    finest_first = sorted(indexed, key=lambda each: KEYS.index(each.key))
    unmatched = {id(each): _add_imageless(rows, each) for each in finest_first}
    contradictions: Counter[str] = Counter()
    for each in indexed:
        _fill_cells(rows, each, contradictions)
    rows.sort(key=lambda row: (row.keys["patient"], row.study, row.slot is None, row.slot or 0))
    return JoinResult(rows, [unmatched[id(each)] for each in indexed], matched, dict(contradictions))


def _make_image_row(
    header: IngestRecord, slot: int, tables: Sequence[_TableIndex], rules: Sequence[str]
) -> ManifestRow:
    keys = _find_codes(header, tables, rules)
    series = header.fields.series if header.fields else ""
    return ManifestRow(keys, keys["study"] or keys["accession"] or series or keys["file"], slot)


def _find_codes(header: IngestRecord, tables: Sequence[_TableIndex], rules: Sequence[str]) -> dict[str, str]:
    """Return the codes of an image's keys; a table may have the patient if the header has none."""
    fields = header.fields
    keys = {key: make_code(fields.get_identifier(key) if fields else Identifier("", ""), rules) for key in KEYS}
    keys["file"] = hash_identifier("file", header.name)
    for each in tables:
        keys["patient"] = keys["patient"] or each.get_common_code("patient", each.places.get(keys[each.key], ()))
    return keys


def _add_imageless(rows: list[ManifestRow], table: _TableIndex) -> int:
    """Add rows for patients and studies without image; return how many unmatched table rows name no patient."""
    there = {row.keys[table.key] for row in rows}
    unmatched = table.table.keys[table.key].count("")
    for each, places in table.places.items():
        if each in there:
            continue
        keys = {key: table.get_common_code(key, places) for key in KEYS}
        if keys["patient"]:
            rows.append(ManifestRow(keys, keys["study"] or keys["accession"] or each, None))
        else:
            unmatched += len(places)
    return unmatched


def _fill_cells(rows: list[ManifestRow], table: _TableIndex, contradictions: Counter[str]) -> None:
    """Copy the table's cells into the rows."""
    known = {each: _merge_cells(table.table, places) for each, places in table.places.items()}
    for row in rows:
        cells = known.get(row.keys[table.key])
        for name, cell in (cells or {}).items():
            before = row.cells.get(name)
            if before is None or name == "text":
                row.cells[name] = "\n".join(filter(None, (before, cell)))
            elif before != cell:
                row.cells[name] = ""
            contradictions.update([name] * (not row.cells[name]))


def _merge_cells(table: TableRows, places: Sequence[int]) -> dict[str, str]:
    """Merge several rows: concatenate texts; take other cells if they are equal, else leave them empty."""
    cells = {}
    for name, column in table.cells.items():
        found = list(dict.fromkeys(column[place] for place in places if column[place]))
        if found:
            cells[name] = "\n".join(found) if name == "text" else found[0] * (len(found) == 1)
    return cells
