"""Read a table as hospitals export it: CSV in any common encoding and with any common separator, Parquet, or Excel.

All cells are read as text: this separates an empty cell (a missing value) from `NaN` or `inf` (an export error), and
`007` from 7.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from datetime import date, datetime
from importlib import import_module
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

from fedhealth.data.decode_text import EXPORT_ADVICE, decode_text
from fedhealth.data.identifiers import LARGEST_FLOAT
from fedhealth.data.text_table import TextTable, build_table
from fedhealth.errors import DataError

MAX_BYTES = 1 << 30
_SAMPLE = 1 << 16  # characters from which the separator is detected
_SAMPLE_LINES = 20
_SEPARATORS = ",;\t|"
_QUOTED = re.compile(r'"[^"]*"')
_NAMED_SEPARATOR = re.compile(r'"?sep=(.)"?\r?\n', re.IGNORECASE)
_ZIP, _OLD_EXCEL, _PARQUET = b"PK\3\4", b"\xd0\xcf\x11\xe0", b"PAR1"


def read_table(path: Path) -> TextTable:
    """Read a table.

    Raises:
        DataError: the file is missing, or is not a table; the message names the line.

    """
    if not path.is_file():
        raise DataError(f"{path}: the table does not exist.", "Correct its path.")
    if path.stat().st_size > MAX_BYTES:
        raise DataError(f"{path}: the table is larger than 1 GiB.", "Split it.")
    try:
        return _read_content(path.read_bytes(), path)
    except (DataError, MemoryError):
        raise
    except Exception as fault:  # on damaged files the parsers raise almost any exception and quote cells
        raise DataError(f"{path}: cannot be read as a table ({type(fault).__name__}).", EXPORT_ADVICE) from None


def _read_content(content: bytes, path: Path) -> TextTable:
    if content.startswith(_PARQUET) or path.suffix.lower() == ".parquet":
        return _read_parquet(path)
    if content.startswith(_ZIP):
        return _read_excel(content, path)
    if content.startswith(_OLD_EXCEL):
        raise DataError(f"{path}: a workbook in the format of Excel 97.", "Save it as .xlsx or CSV.")
    return _parse_csv(*decode_text(content, path), path)


def _read_parquet(path: Path) -> TextTable:
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(path)
    if len(set(table.column_names)) < len(table.column_names):
        raise DataError(f"{path}: two columns have the same name.", "Give every column a name of its own.")
    columns = {name: [_format_cell(cell) for cell in table[name].to_pylist()] for name in table.column_names}
    return TextTable(path, "Parquet", columns, list(range(2, table.num_rows + 2)))


def _format_cell(cell: object) -> str:
    """Return a cell as text; integers that are stored as floats (because of missing cells) stay integers."""
    if cell is None or cell != cell:  # only NaN differs from itself
        return ""
    if isinstance(cell, bool):
        return str(int(cell))
    if isinstance(cell, float) and cell.is_integer():
        return f"{cell:.17E}" if abs(cell) >= LARGEST_FLOAT else str(int(cell))
    if isinstance(cell, datetime | date):
        return cell.isoformat()
    return str(cell)


def _read_excel(content: bytes, path: Path) -> TextTable:
    """Read the first sheet with content."""
    try:
        openpyxl = import_module("openpyxl")
    except ImportError:
        raise DataError(f"{path}: openpyxl, which reads Excel files, is not installed.", EXPORT_ADVICE) from None
    try:
        if sum(each.file_size for each in ZipFile(BytesIO(content)).infolist()) > MAX_BYTES:
            raise DataError(f"{path}: the workbook is larger than 1 GiB.", "Split it.")
    except BadZipFile:
        raise DataError(f"{path}: a damaged archive or workbook, not a table.", EXPORT_ADVICE) from None
    book = openpyxl.load_workbook(BytesIO(content), read_only=True, data_only=True)
    sheets = [_read_sheet(sheet) for sheet in book.worksheets if not sheet.sheet_state.endswith("idden")]
    used = [rows for rows in sheets if any(any(cells) for _, cells in rows)]
    notes = [f"{len(used) - 1} more sheet(s) are not read"] if len(used) > 1 else []
    return build_table(path, "Excel", used[0] if used else [], notes)


def _read_sheet(sheet: Any) -> list[tuple[int, list[str]]]:
    rows = [[_format_cell(cell) for cell in row] for row in sheet.iter_rows(values_only=True)]
    width = max((len(cells) for cells in rows), default=0)
    return [(line, cells + [""] * (width - len(cells))) for line, cells in enumerate(rows, start=1)]


def _parse_csv(content: str, encoding: str, path: Path) -> TextTable:
    csv.field_size_limit(MAX_BYTES)
    named = _NAMED_SEPARATOR.match(content)
    separator = named[1] if named else _detect_separator(content[:_SAMPLE])
    start = 0
    if named:
        content, start = content[named.end() :], 1
    reader = csv.reader(StringIO(content, newline=""), delimiter=separator, strict=True)
    rows, line = list[tuple[int, list[str]]](), 1 + start
    try:
        for cells in reader:
            rows.append((line, cells))
            line = reader.line_num + 1 + start
    except csv.Error as fault:
        raise DataError(
            f"{path}: cannot be read as a table ({str(fault)[:200]} from line {line} on).", EXPORT_ADVICE
        ) from None
    return build_table(path, encoding, rows, ())


def _detect_separator(sample: str) -> str:
    """Return the separator that most of the first lines have equally often; a comma by default."""
    lines = [line for line in _QUOTED.sub("", sample).splitlines() if line.strip()][:_SAMPLE_LINES]

    def score(separator: str) -> tuple[int, int, bool]:
        counts = Counter(filter(None, (line.count(separator) for line in lines)))
        count, agreeing = max(counts.items(), key=lambda each: (each[1], each[0]), default=(0, 0))
        return agreeing, count, separator == ","

    return max(_SEPARATORS, key=score)
