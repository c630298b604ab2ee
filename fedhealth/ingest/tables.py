"""Read one of a hospital's tables, whatever its encoding and separator; identifiers become codes, reports are cleaned.

This runs in a worker: what comes back holds no identifier and no more of a report than is kept.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import pandas as pd
from charset_normalizer import from_bytes

from fedhealth.errors import DataError, FedhealthError
from fedhealth.ingest.header import code
from fedhealth.ingest.settings import Table, Text
from fedhealth.ingest.text import cleaned, suspicious

MAX_BYTES = 1 << 30
_SAMPLE = 1 << 16  # characters from which the separator is told
_GUESSED = 1 << 20  # bytes from which an encoding is guessed
_MOST_ACCENTS = 0.2  # of all letters of a Western text; other scripts read in its encoding have nothing else
_MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
_SEPARATORS = ",;\t|"


@dataclass(frozen=True)
class Rows:
    """A table as it is joined.

    Attributes:
        path: of the file.
        encoding: that it was read in; empty for Parquet.
        keys: by the name of the key, a code for each row; empty = no key.
        cells: by the consortium's column, each row's text; empty = missing.
        suspicious: reports that still seem to name somebody.

    """

    path: str
    encoding: str
    keys: Mapping[str, list[str]]
    cells: Mapping[str, list[str]]
    suspicious: int

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
    frame, encoding = _frame(table.path)
    wanted = [*table.keys.values(), *table.columns.values(), *table.names]
    if missing := [column for column in wanted if column not in frame.columns]:
        has = ", ".join(map(str, frame.columns[:50]))
        raise DataError(f"{table.path}: no column {', '.join(map(repr, missing))}.", f"Correct tables; it has: {has}.")
    keys = {key: [code(key, cell) for cell in frame[column]] for key, column in table.keys.items()}
    cells = {name: frame[column].str.strip().tolist() for name, column in table.columns.items()}
    if "text" in cells:
        people = zip(*(frame[column] for column in table.names), strict=True) if table.names else [()] * len(frame)
        cells["text"] = [cleaned(report, text, names) for report, names in zip(cells["text"], people, strict=True)]
    return Rows(str(table.path), encoding, keys, cells, sum(map(suspicious, cells.get("text", []))))


def _frame(path: Path) -> tuple[pd.DataFrame, str]:
    if not path.is_file():
        raise DataError(f"{path}: there is no such table.", "Correct tables.path.")
    if path.stat().st_size > MAX_BYTES:
        raise DataError(f"{path}: the table is larger than 1 GiB.", "Split it.")
    if path.suffix.lower() == ".parquet":
        frame = pd.read_parquet(path).convert_dtypes()  # a whole number stays one beside missing cells
        return frame.astype(object).where(frame.notna(), "").astype(str), ""
    content = path.read_bytes()
    encoding = _encoding(content, path)
    return _parsed(content.decode(encoding), path), encoding


def _encoding(content: bytes, path: Path) -> str:
    """Tell the encoding: by its mark, as UTF-8 where it is that, as Western, else by the letters' frequencies."""
    for mark, name in _MARKS.items():
        if content.startswith(mark):
            return name
    if _decoded(content, "utf-8") is not None:
        return "utf-8"
    if _western(_decoded(content, "cp1252")):
        return "cp1252"
    guess = from_bytes(content[:_GUESSED]).best()
    if guess is None or _decoded(content, guess.encoding) is None:
        raise DataError(f"{path}: its encoding cannot be told.", _EXPORT)
    return guess.encoding


def _decoded(content: bytes, encoding: str) -> str | None:
    try:
        return content.decode(encoding)
    except UnicodeDecodeError:
        return None


def _western(text: str | None) -> bool:
    """Tell whether a text read as Windows' Western encoding is one: few letters have accents, and few symbols."""
    if text is None:
        return False
    further = [letter for letter in text if letter > "\x7f"]
    letters = sum(map(str.isalpha, text))
    accents = sum(map(str.isalpha, further))
    return accents <= _MOST_ACCENTS * letters and len(further) - accents <= max(accents, _MOST_ACCENTS * letters)


def _parsed(content: str, path: Path) -> pd.DataFrame:
    if "\0" in content[:_SAMPLE]:
        raise DataError(f"{path}: this is no text.", _EXPORT)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # surplus cells would be dropped in silence
            frame = pd.read_csv(
                StringIO(content),
                sep=_separator(content[:_SAMPLE]),
                dtype=str,
                keep_default_na=False,
                index_col=False,
            )
    except (ValueError, pd.errors.ParserWarning) as fault:
        reason = str(fault).splitlines()[0][:200]
        raise DataError(f"{path}: cannot be read as a table ({reason}).", _EXPORT) from None
    if frame.empty:
        raise DataError(f"{path}: the table has no rows.", "Take it out of tables, or export it again.")
    return frame.fillna("")


def _separator(sample: str) -> str:
    """Return what separates the cells of the header; a comma where that cannot be told."""
    header = next(iter(sample.splitlines()), "")
    return max(_SEPARATORS, key=lambda each: (header.count(each), each == ","))
