"""Read a hospital's table; turn identifiers into codes and clean reports.

This runs in a worker; its result contains no identifier and only the cleaned reports.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from fedhealth.config.schema import DataConfig, TaskKind
from fedhealth.data.cells import CellFormat, ParsedCells, parse_labels, parse_values
from fedhealth.data.decode_text import EXPORT_ADVICE
from fedhealth.data.findings import DataFinding, FindingKind
from fedhealth.data.identifiers import LOOSE_KEYS, Identifier, check_lost_digits, make_code, make_identifier
from fedhealth.data.tabular import check_cells
from fedhealth.data.text_table import TextTable
from fedhealth.data.texts import find_text_findings, select_texts
from fedhealth.errors import DataError, FedhealthError
from fedhealth.ingest.report_text import clean_report, still_identifies
from fedhealth.ingest.settings import IdentifierSettings, IngestTable, TextSettings
from fedhealth.ingest.table_source import TableSource, build_table_source


@dataclass(frozen=True)
class TableRows:
    """A table's codes and cells, ready to be joined.

    Attributes:
        path: of the file, or the name of its source.
        encoding: of the file, or `Parquet` or `Excel`, or the kind of its source.
        keys: by the name of the key, a code for each row; empty = no key.
        identifiers: by the name of the key, each row's identifier, whatever rules are declared.
        cells: by the consortium's column, each row's text; empty = missing.
        lines: each row's line in the file.
        findings: what a person must know of the table.
        excluded: by the name of the key, the codes in rows of excluded patients, which are left out.
        dropped: number of these rows.
        request: what its source was asked; empty for a file.

    """

    path: str
    encoding: str
    keys: Mapping[str, list[str]]
    identifiers: Mapping[str, list[Identifier]]
    cells: Mapping[str, list[str]]
    lines: list[int]
    findings: tuple[DataFinding, ...] = ()
    excluded: Mapping[str, frozenset[str]] = field(default_factory=dict)
    dropped: int = 0
    request: str = ""

    def __len__(self) -> int:
        return len(self.lines)


@dataclass(frozen=True)
class TableContext:
    """What reading a table needs to know besides the table.

    Attributes:
        text: how reports are cleaned.
        identifiers: how patients and accession numbers are compared.
        data: the consortium's description; None leaves cells as they are.
        excluded: codes of the patients who are left out.

    """

    text: TextSettings = field(default_factory=TextSettings)
    identifiers: IdentifierSettings = field(default_factory=IdentifierSettings)
    data: DataConfig | None = None
    excluded: frozenset[str] = frozenset()


def load_table(table: IngestTable, context: TableContext) -> TableRows | FedhealthError:
    """Read a table; return, not raise, an error, so that the worker can send it to the parent process."""
    name = "table"
    try:
        source = build_table_source(table)
        name = source.name
        return _parse_table(table, source, context)
    except FedhealthError as fault:
        return fault
    except MemoryError:
        raise
    except Exception as fault:  # on damaged files the parsers raise almost any exception
        return DataError(f"{name}: cannot be read as a table ({type(fault).__name__}).", EXPORT_ADVICE)


def _parse_table(table: IngestTable, source: TableSource, context: TableContext) -> TableRows:
    read = source.read_table()
    columns = read.columns
    if not read.lines:
        raise DataError(f"{read.path}: the table has no rows.", "Remove it from tables, or export it again.")
    read.require_columns([*table.keys.values(), *table.columns.values(), *table.names], "Correct tables")
    for key, column in table.keys.items():
        if key in LOOSE_KEYS:
            check_lost_digits(f"{read.path}: column {column!r}", columns[column])
    everyone = _find_identifiers(table, read)
    patients = everyone.get("patient", [Identifier("", "")] * len(read.lines))
    kept = [place for place, each in enumerate(patients) if each.code not in context.excluded]
    read, found = read.select_rows(kept), {key: [column[place] for place in kept] for key, column in everyone.items()}
    rules = context.identifiers.rules
    keys = {key: [make_code(each, rules) for each in column] for key, column in found.items()}
    cells, findings = _parse_cells(table, read, context)
    lost = set(range(len(patients))) - set(kept)
    excluded = {key: frozenset(make_code(column[place], rules) for place in lost) for key, column in everyone.items()}
    notes = (*_repeat_notes(read), *findings)
    name, request = str(read.path), source.describe_request()
    return TableRows(name, read.encoding, keys, found, cells, read.lines, notes, excluded, len(lost), request)


def _find_identifiers(table: IngestTable, read: TextTable) -> dict[str, list[Identifier]]:
    return {key: [make_identifier(key, cell) for cell in read.columns[column]] for key, column in table.keys.items()}


def _repeat_notes(read: TextTable) -> Iterator[DataFinding]:
    for note in read.notes:
        yield DataFinding(FindingKind.tables, f"{read.path.name}: {note}.")


def _parse_cells(
    table: IngestTable, read: TextTable, context: TableContext
) -> tuple[dict[str, list[str]], list[DataFinding]]:
    """Return the cells as the consortium means them, and findings."""
    cells, findings, data = dict[str, list[str]](), list[DataFinding](), context.data
    _check_words(table, read, data)
    for name, column in table.columns.items():
        given = CellFormat(table.decimal, table.units.get(name, ""), table.words.get(name, {}))
        raw = read.columns[column]
        if name == "text":
            cells[name], found = _clean_texts(table, read, column, context)
            findings += found
            continue
        if data and name in data.columns.labels:
            parsed = parse_labels(raw, data.task, given)
        elif data and name in data.tabular:
            parsed = parse_values(raw, data.tabular[name], given)
        else:
            parsed = ParsedCells([cell.strip() for cell in raw], {})
        check_cells(parsed, raw, read.lines, f"{read.path}: column {column!r}")
        cells[name] = parsed.values
        findings += parsed.find_findings(f"{read.path.name}: column {column!r}")
    return cells, findings


def _clean_texts(
    table: IngestTable, read: TextTable, column: str, context: TableContext
) -> tuple[list[str], list[DataFinding]]:
    """Return the cleaned reports, and findings."""
    raw = read.columns[column]
    people = [*zip(*(read.columns[person] for person in table.names), strict=True)] or [()] * len(raw)
    texts, reasons = select_texts(raw)
    cleaned = [clean_report(text, context.text, names) for text, names in zip(texts, people, strict=True)]
    where = f"{read.path.name}: column {column!r}"
    found = [*find_text_findings(where, reasons), *_find_emptied(where, texts, cleaned)]
    if not context.text.deidentify:
        found += _find_left_identifiers(where, cleaned, people)
    return cleaned, found


def _find_emptied(where: str, texts: list[str], cleaned: list[str]) -> Iterator[DataFinding]:
    reports = sum(map(bool, texts))
    emptied = sum(bool(text) and not kept for text, kept in zip(texts, cleaned, strict=True))
    if emptied:
        text = f"{where}: {emptied} of {reports} reports are empty after sections, words and identifiers were removed."
        yield DataFinding(FindingKind.texts, text, 2 * emptied > reports)


def _find_left_identifiers(where: str, cleaned: list[str], people: list[tuple[str, ...]]) -> Iterator[DataFinding]:
    if left := sum(still_identifies(kept, names) for kept, names in zip(cleaned, people, strict=True)):
        text = f"{where}: {left} of {sum(map(bool, cleaned))} reports hold names of the table, dates, numbers or"
        yield DataFinding(FindingKind.privacy, f"{text} addresses: text.deidentify is off.", True)


def _check_words(table: IngestTable, read: TextTable, data: DataConfig | None) -> None:
    """Check that the table's own words mean something the consortium knows.

    Raises:
        DataError: otherwise the cells would silently count as missing.

    """
    if data is None:
        return
    for name in data.columns.labels:
        classes = ["0", "1"] if data.task.kind is TaskKind.multilabel else data.task.classes
        known = {*classes, *(str(index) for index in range(len(classes))), ""}
        if unknown := sorted(set(table.words.get(name, {}).values()) - known):
            raise DataError(
                f"{read.path}: words of {name!r} mean {', '.join(map(repr, unknown))}, which is no class.",
                f"Classes are {', '.join(classes)}.",
            )
