"""Read one of a hospital's tables, whatever its encoding and separator; identifiers become codes, reports are cleaned.

This runs in a worker: what comes back holds no identifier and no more of a report than is kept.
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
from fedhealth.ingest.header import code
from fedhealth.ingest.settings import Table, Text
from fedhealth.ingest.text import cleaned

MAX_BYTES = 1 << 30
_SAMPLE = 1 << 16  # characters from which the separator is told
_GUESSED = 1 << 20  # bytes from which an encoding is guessed
_MOST_ACCENTS = 0.2  # of all letters of a Western text; other scripts read in its encoding have nothing else
_MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
_SHOWN = 50  # columns, and characters of each name
_SEPARATORS = ",;\t|"
_WESTERN = "cp1252"


@dataclass(frozen=True)
class Rows:
    """A table as it is joined.

    Attributes:
        path: of the file.
        encoding: that it was read in; empty for Parquet.
        keys: by the name of the key, a code for each row; empty = no key.
        cells: by the consortium's column, each row's text; empty = missing.

    """

    path: str
    encoding: str
    keys: Mapping[str, list[str]]
    cells: Mapping[str, list[str]]

    def __len__(self) -> int:
        return len(next(iter(self.keys.values())))


def load_table(table: Table, text: Text) -> Rows | FedhealthError:
    """Read a table; a fault is returned, for exceptions do not travel between processes."""
    try:
        return _loaded(table, text)
    except FedhealthError as fault:
        return fault
    except MemoryError:
        raise
    except Exception as fault:  # parsers of damaged files raise almost anything
        return DataError(f"{table.path}: cannot be read as a table ({type(fault).__name__}).", _EXPORT)


_EXPORT = "Export it as UTF-8 CSV or Parquet."


def _loaded(table: Table, text: Text) -> Rows:
    columns, encoding = _columns(table.path)
    wanted = [*table.keys.values(), *table.columns.values(), *table.names]
    if missing := [column for column in wanted if column not in columns]:
        has = ", ".join(name[:_SHOWN] for name in list(columns)[:_SHOWN])
        raise DataError(f"{table.path}: no column {', '.join(map(repr, missing))}.", f"Correct tables; it has: {has}.")
    keys = {key: [code(key, cell) for cell in columns[column]] for key, column in table.keys.items()}
    cells = {name: [cell.strip() for cell in columns[column]] for name, column in table.columns.items()}
    if "text" in cells:
        people = zip(*(columns[column] for column in table.names), strict=True) if table.names else repeat(())
        cells["text"] = [cleaned(report, text, names) for report, names in zip(cells["text"], people, strict=False)]
    return Rows(str(table.path), encoding, keys, cells)


def _columns(path: Path) -> tuple[dict[str, list[str]], str]:
    """Return each column's cells as text, and the encoding."""
    if not path.is_file():
        raise DataError(f"{path}: there is no such table.", "Correct tables.path.")
    if path.stat().st_size > MAX_BYTES:
        raise DataError(f"{path}: the table is larger than 1 GiB.", "Split it.")
    if path.suffix.lower() == ".parquet":
        return _parquet(path), ""
    content = path.read_bytes()
    encoding = _encoding(content, path)
    if encoding != _WESTERN:
        return _parsed(content.decode(encoding), path), encoding
    text, encoding = _western_lines(content)
    return _parsed(text, path), encoding


def _parquet(path: Path) -> dict[str, list[str]]:
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(path)
    return {name: [_plain(cell) for cell in table[name].to_pylist()] for name in table.column_names}


def _plain(cell: object) -> str:
    """Return a cell as text; whole numbers stay whole where missing cells beside them have made them fractions."""
    if cell is None or cell != cell:  # only NaN differs from itself
        return ""
    return str(int(cell)) if isinstance(cell, bool | float) and float(cell).is_integer() else str(cell)


def _encoding(content: bytes, path: Path) -> str:
    """Tell the encoding: by its mark, as UTF-8 where it is that, as Western, else by the letters' frequencies."""
    for mark, name in _MARKS.items():
        if content.startswith(mark):
            return name
    if _decoded(content, "utf-8") is not None:
        return "utf-8"
    if _western(content.decode(_WESTERN, "replace")):
        return _WESTERN
    guess = from_bytes(content[:_GUESSED]).best()
    if guess is None or _decoded(content, guess.encoding) is None:
        raise DataError(f"{path}: its encoding cannot be told.", _EXPORT)
    return guess.encoding


def _western_lines(content: bytes) -> tuple[str, str]:
    """Read line by line: several exports put together, or one bad letter, make a file that is UTF-8 in parts."""
    lines, mixed = [], False
    for line in content.splitlines(keepends=True):
        text = _decoded(line, "utf-8")
        mixed |= text is not None and not line.isascii()
        lines.append(line.decode(_WESTERN, "replace") if text is None else text)
    return "".join(lines), f"{_WESTERN} and utf-8" if mixed else _WESTERN


def _decoded(content: bytes, encoding: str) -> str | None:
    try:
        return content.decode(encoding)
    except UnicodeDecodeError:
        return None


def _western(text: str) -> bool:
    """Tell whether a text read as Windows' Western encoding is one: few letters have accents, and few symbols."""
    further = [letter for letter in text if letter > "\x7f"]
    letters = sum(map(str.isalpha, text))
    accents = sum(map(str.isalpha, further))
    return accents <= _MOST_ACCENTS * letters and len(further) - accents <= max(accents, _MOST_ACCENTS * letters)


def _parsed(content: str, path: Path) -> dict[str, list[str]]:
    csv.field_size_limit(MAX_BYTES)
    rows = csv.reader(StringIO(content, newline=""), delimiter=_separator(content[:_SAMPLE]), strict=True)
    try:
        header = next(rows, [])
        body = [_whole(row, header, rows.line_num) for row in rows if row]
    except (csv.Error, ValueError) as fault:
        raise DataError(f"{path}: cannot be read as a table ({str(fault)[:200]}).", _EXPORT) from None
    if len(set(header)) < len(header):
        raise DataError(f"{path}: two columns have the same name.", "Name every column in the first line.")
    if not body:
        raise DataError(f"{path}: the table has no rows.", "Take it out of tables, or export it again.")
    return {name: list(cells) for name, cells in zip(header, zip(*body, strict=True), strict=True)}


def _whole(row: list[str], header: list[str], line: int) -> list[str]:
    if len(row) != len(header):
        raise ValueError(f"line {line} has {len(row)} cells, the header has {len(header)}")
    return row


def _separator(sample: str) -> str:
    """Return what separates the cells of the header; a comma where that cannot be told."""
    header = next(iter(sample.splitlines()), "")
    return max(_SEPARATORS, key=lambda each: (header.count(each), each == ","))
