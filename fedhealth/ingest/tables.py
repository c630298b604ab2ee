"""Read a hospital's table in any encoding, with any separator; hash identifiers to codes and clean reports.

This runs in a worker; its result contains no identifier and only the cleaned reports.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from io import StringIO
from itertools import repeat
from pathlib import Path

from charset_normalizer import from_bytes

from fedhealth.errors import DataError, FedhealthError
from fedhealth.ingest.header import hash_identifier
from fedhealth.ingest.report_text import clean_report
from fedhealth.ingest.settings import IngestTable, TextSettings

MAX_BYTES = 1 << 30
_SAMPLE = 1 << 16  # characters from which the separator is detected
_GUESSED = 1 << 20  # bytes from which an encoding is guessed
_MOST_ACCENTS = 0.2  # of all letters in a Western text; other scripts decoded as Western have only accented letters
_MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
_SHOWN = 50  # columns, and characters of each name
_SEPARATORS = ",;\t|"
_WESTERN = "cp1252"


@dataclass(frozen=True)
class TableRows:
    """A table's codes and cells, ready to be joined.

    Attributes:
        path: of the file.
        encoding: of the file; empty for Parquet.
        keys: by the name of the key, a code for each row; empty = no key.
        cells: by the consortium's column, each row's text; empty = missing.

    """

    path: str
    encoding: str
    keys: Mapping[str, list[str]]
    cells: Mapping[str, list[str]]

    def __len__(self) -> int:
        return len(next(iter(self.keys.values())))


def load_table(table: IngestTable, text: TextSettings) -> TableRows | FedhealthError:
    """Read a table; return, not raise, an error, so that the worker can send it to the parent process."""
    try:
        return _parse_table(table, text)
    except FedhealthError as fault:
        return fault
    except MemoryError:
        raise
    except Exception as fault:  # on damaged files the parsers raise almost any exception
        return DataError(f"{table.path}: cannot be read as a table ({type(fault).__name__}).", _EXPORT)


_EXPORT = "Export it as UTF-8 CSV or Parquet."


def _parse_table(table: IngestTable, text: TextSettings) -> TableRows:
    columns, encoding = _read_columns(table.path)
    wanted = [*table.keys.values(), *table.columns.values(), *table.names]
    if missing := [column for column in wanted if column not in columns]:
        has = ", ".join(name[:_SHOWN] for name in list(columns)[:_SHOWN])
        raise DataError(f"{table.path}: no column {', '.join(map(repr, missing))}.", f"Correct tables; it has: {has}.")
    keys = {key: [hash_identifier(key, cell) for cell in columns[column]] for key, column in table.keys.items()}
    cells = {name: [cell.strip() for cell in columns[column]] for name, column in table.columns.items()}
    if "text" in cells:
        people = zip(*(columns[column] for column in table.names), strict=True) if table.names else repeat(())
        cells["text"] = [
            clean_report(report, text, names) for report, names in zip(cells["text"], people, strict=False)
        ]
    return TableRows(str(table.path), encoding, keys, cells)


def _read_columns(path: Path) -> tuple[dict[str, list[str]], str]:
    """Return each column's cells as text, and the encoding."""
    if not path.is_file():
        raise DataError(f"{path}: the table does not exist.", "Correct tables.path.")
    if path.stat().st_size > MAX_BYTES:
        raise DataError(f"{path}: the table is larger than 1 GiB.", "Split it.")
    if path.suffix.lower() == ".parquet":
        return _read_parquet(path), ""
    content = path.read_bytes()
    encoding = _detect_encoding(content, path)
    if encoding != _WESTERN:
        return _parse_csv(content.decode(encoding), path), encoding
    text, encoding = _decode_western_lines(content)
    return _parse_csv(text, path), encoding


def _read_parquet(path: Path) -> dict[str, list[str]]:
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(path)
    return {name: [_format_cell(cell) for cell in table[name].to_pylist()] for name in table.column_names}


def _format_cell(cell: object) -> str:
    """Return a cell as text; integers that Parquet stores as floats (because of missing cells) stay integers."""
    if cell is None or cell != cell:  # only NaN differs from itself
        return ""
    return str(int(cell)) if isinstance(cell, bool | float) and float(cell).is_integer() else str(cell)


def _detect_encoding(content: bytes, path: Path) -> str:
    """Detect the encoding: byte order mark, valid UTF-8, Western, or else by letter frequencies."""
    for mark, name in _MARKS.items():
        if content.startswith(mark):
            return name
    if _try_decode(content, "utf-8") is not None:
        return "utf-8"
    if _is_western(content.decode(_WESTERN, "replace")):
        return _WESTERN
    guess = from_bytes(content[:_GUESSED]).best()
    if guess is None or _try_decode(content, guess.encoding) is None:
        raise DataError(f"{path}: its encoding cannot be detected.", _EXPORT)
    return guess.encoding


def _decode_western_lines(content: bytes) -> tuple[str, str]:
    """Decode line by line: concatenated exports, or one invalid character, make a file that is partly UTF-8."""
    lines, mixed = [], False
    for line in content.splitlines(keepends=True):
        text = _try_decode(line, "utf-8")
        mixed |= text is not None and not line.isascii()
        lines.append(line.decode(_WESTERN, "replace") if text is None else text)
    return "".join(lines), f"{_WESTERN} and utf-8" if mixed else _WESTERN


def _try_decode(content: bytes, encoding: str) -> str | None:
    try:
        return content.decode(encoding)
    except UnicodeDecodeError:
        return None


def _is_western(text: str) -> bool:
    """Return whether a text decoded as Windows Western is plausible: few accented letters and few symbols."""
    further = [letter for letter in text if letter > "\x7f"]
    letters = sum(map(str.isalpha, text))
    accents = sum(map(str.isalpha, further))
    return accents <= _MOST_ACCENTS * letters and len(further) - accents <= max(accents, _MOST_ACCENTS * letters)


def _parse_csv(content: str, path: Path) -> dict[str, list[str]]:
    csv.field_size_limit(MAX_BYTES)
    rows = csv.reader(StringIO(content, newline=""), delimiter=_detect_separator(content[:_SAMPLE]), strict=True)
    try:
        header = next(rows, [])
        body = [_check_cell_count(row, header, rows.line_num) for row in rows if row]
    except (csv.Error, ValueError) as fault:
        raise DataError(f"{path}: cannot be read as a table ({str(fault)[:200]}).", _EXPORT) from None
    if len(set(header)) < len(header):
        raise DataError(f"{path}: two columns have the same name.", "Name every column in the first line.")
    if not body:
        raise DataError(f"{path}: the table has no rows.", "Remove it from tables, or export it again.")
    return {name: list(cells) for name, cells in zip(header, zip(*body, strict=True), strict=True)}


def _check_cell_count(row: list[str], header: list[str], line: int) -> list[str]:
    if len(row) != len(header):
        raise ValueError(f"line {line} has {len(row)} cells, the header has {len(header)}")
    return row


def _detect_separator(sample: str) -> str:
    """Detect the separator from the header line; a comma by default."""
    header = next(iter(sample.splitlines()), "")
    return max(_SEPARATORS, key=lambda each: (header.count(each), each == ","))
