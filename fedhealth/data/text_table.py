"""A table whose cells are all text: what every reader of tables returns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fedhealth.errors import DataError

_HIGHEST_TITLE = 5  # rows above the header that may be a title
_SHOWN = 50  # columns, and characters of each name


@dataclass(frozen=True)
class TextTable:
    """A table's cells as text.

    Attributes:
        path: of the file.
        encoding: of the file; `Parquet` or `Excel` for these.
        columns: the cells by the column's name; empty = no value.
        lines: of each row, its first line in the file, or its row in the sheet; the header is usually 1.
        notes: what the reader tolerated.

    """

    path: Path
    encoding: str
    columns: Mapping[str, list[str]]
    lines: list[int]
    notes: tuple[str, ...] = ()

    def select_rows(self, places: Sequence[int]) -> TextTable:
        """Return the table with some of its rows."""
        columns = {name: [cells[place] for place in places] for name, cells in self.columns.items()}
        return replace(self, columns=columns, lines=[self.lines[place] for place in places])

    def require_columns(self, wanted: Iterable[str], advice: str) -> None:
        """Check that columns exist.

        Raises:
            DataError: with the columns that the file has.

        """
        if missing := [column for column in wanted if column not in self.columns]:
            has = ", ".join(name[:_SHOWN] for name in list(self.columns)[:_SHOWN])
            raise DataError(f"{self.path}: no column {', '.join(map(repr, missing))}.", f"{advice}; it has: {has}.")


def build_table(path: Path, encoding: str, rows: Sequence[tuple[int, list[str]]], notes: Sequence[str]) -> TextTable:
    """Make a table of the rows of a file or sheet: leave out a title above the header, and empty rows and columns.

    Args:
        path: of the file.
        encoding: as in `TextTable`.
        rows: (line, cells).
        notes: what the reader tolerated.

    Raises:
        DataError: rows of different lengths, columns without a name or with the same name.

    """
    filled = [(line, cells) for line, cells in rows if any(map(str.strip, cells))]
    skipped = _count_title_rows([cells for _, cells in filled[: _HIGHEST_TITLE + 1]])
    if not filled:
        raise DataError(f"{path}: the table has no rows.", "Remove it, or export it again.")
    header = [name.strip() for name in filled[skipped][1]]
    while header and not header[-1]:
        header.pop()
    _check_header(header, path)
    body = [_fit_cells(cells, header, line, path) for line, cells in filled[skipped + 1 :]]
    columns = {name: [cells[place] for cells in body] for place, name in enumerate(header)}
    title = [f"{skipped} line(s) above the header are left out"] if skipped else []
    return TextTable(path, encoding, columns, [line for line, _ in filled[skipped + 1 :]], (*notes, *title))


def _count_title_rows(rows: Sequence[list[str]]) -> int:
    """Return how many rows above the header have a single cell, although the header has several."""
    widths = [sum(bool(cell.strip()) for cell in cells) for cells in rows]
    wide = next((place for place, width in enumerate(widths) if width > 1), 0)
    return wide if wide <= _HIGHEST_TITLE else 0


def _check_header(header: Sequence[str], path: Path) -> None:
    doubled = sorted(name for name, count in Counter(header).items() if name and count > 1)
    if doubled:
        shown = ", ".join(repr(name[:_SHOWN]) for name in doubled[:_SHOWN])
        raise DataError(f"{path}: two columns have the same name: {shown}.", "Give every column a name of its own.")
    if "" in header:
        raise DataError(f"{path}: column {header.index('') + 1} has no name.", "Name every column in the first line.")


def _fit_cells(cells: list[str], header: Sequence[str], line: int, path: Path) -> list[str]:
    """Return the cells of the header's columns; surplus empty cells are Excel's."""
    if len(cells) < len(header) or any(map(str.strip, cells[len(header) :])):
        more = "more" if len(cells) > len(header) else "fewer"
        raise DataError(
            f"{path}: line {line} has {more} cells than the header ({len(cells)}, not {len(header)}).",
            "Name every column in the header; put cells with separators or line breaks into quotes.",
        )
    return cells[: len(header)]
