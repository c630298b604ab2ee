"""Encode clinical variables with public constants only; no site statistic is used."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from fedhealth.config.schema import MAX_FEATURE, ColumnKind, FaultyCells, TabularColumnConfig
from fedhealth.data.cells import CellFormat, ParsedCells, parse_values
from fedhealth.data.findings import DataFinding, FindingKind
from fedhealth.data.manifest import format_line_numbers
from fedhealth.errors import DataError

_FAR = 100.0  # scales from the center from which on a number is questionable
_IMPOSSIBLE = 1e6  # scales from the center from which on it is an error, whatever is measured
_SHOWN = 3  # cells and reasons in a message


def count_features(columns: dict[str, TabularColumnConfig]) -> int:
    """Return how many features `encode_columns` makes: 2 for numeric (value, missing), levels + 1 for categorical."""
    return sum(2 if column.kind is ColumnKind.numeric else len(column.levels) + 1 for column in columns.values())


class EncodedColumns(NamedTuple):
    """Clinical variables as features.

    Attributes:
        features: float32 [rows, features], at most `MAX_FEATURE` from zero.
        present: bool [rows], whether the row has at least one value.
        findings: what a person must know of the values.

    """

    features: np.ndarray
    present: np.ndarray
    findings: tuple[DataFinding, ...]


def encode_columns(
    rows: pd.DataFrame,
    columns: dict[str, TabularColumnConfig],
    path: Path,
    decimal: str = ".",
    faulty_cells: FaultyCells = FaultyCells.refuse,
) -> EncodedColumns:
    """Encode the `tabular.*` columns of a manifest.

    Raises:
        DataError: a cell is not what its column needs, or missing although the column is required; with
            `FaultyCells.missing` it counts as missing instead.

    """
    blocks, missing, findings = list[np.ndarray](), list[np.ndarray](), list[DataFinding]()
    for name, column in columns.items():
        cells, where = rows[f"tabular.{name}"].tolist(), f"{path}: column {name!r}"
        found = parse_values(cells, column, CellFormat(decimal))
        values, absent = _encode_values(found, column)
        if faulty_cells is FaultyCells.refuse:
            _refuse_faults(found, values, absent, column, cells, rows["line"], where)
        else:
            values, absent, counted = _set_faults_missing(found, values, absent, column, f"Column {name!r}")
            findings += counted
        findings += _find_extremes(values, f"Column {name!r}")
        blocks.append(np.column_stack([np.clip(values, -MAX_FEATURE, MAX_FEATURE), absent]))
        missing.append(absent)
        findings += found.find_findings(f"Column {name!r}")
    if not blocks:
        return EncodedColumns(np.zeros((len(rows), 0), np.float32), np.zeros(len(rows), bool), ())
    features = np.concatenate(blocks, axis=1).astype(np.float32)
    return EncodedColumns(features, ~np.all(np.stack(missing), axis=0), tuple(findings))


def _encode_values(found: ParsedCells, column: TabularColumnConfig) -> tuple[np.ndarray, np.ndarray]:
    """Return the encoded values [rows, 1 or levels], and which cells are missing [rows]."""
    absent = np.array([value == "" for value in found.values], bool)
    encode = _encode_numeric if column.kind is ColumnKind.numeric else _encode_categorical
    return encode(found.values, column), absent


def _refuse_faults(
    found: ParsedCells,
    values: np.ndarray,
    absent: np.ndarray,
    column: TabularColumnConfig,
    cells: Sequence[str],
    line: pd.Series[int],
    where: str,
) -> None:
    """Raise the first fault of a column: unreadable cells, empty ones in a required column, impossible numbers."""
    check_cells(found, cells, line.tolist(), where)
    if column.required and absent.any():
        raise DataError(
            f"{where} is required but empty in {format_line_numbers(line[absent])}.",
            "Fill it, or set required: false for this column.",
        )
    if (bad := _mark_impossible(values)).any():
        raise DataError(
            f"{where}, {format_line_numbers(line[bad])}: a number that is over a million scales from the center.",
            "Correct the cells, or the column's center and scale; leave a cell empty if the value is missing.",
        )


def _set_faults_missing(
    found: ParsedCells, values: np.ndarray, absent: np.ndarray, column: TabularColumnConfig, where: str
) -> tuple[np.ndarray, np.ndarray, list[DataFinding]]:
    """Return values and missing cells with every fault as a missing value, and how many there are."""
    bad = _mark_impossible(values)
    count = len(found.faults) + int(bad.sum())
    empty = int(absent.sum()) - len(found.faults) if column.required else 0
    findings = [_count_finding(f"{where}: {count} value(s) do not fit the description and count as missing.")] * (
        count > 0
    )
    if empty:
        findings.append(_count_finding(f"{where} is required but missing in {empty} row(s)."))
    return np.where(bad[:, None], np.zeros_like(values), values), absent | bad, findings


def _count_finding(text: str) -> DataFinding:
    return DataFinding(FindingKind.values, text, True)


def _mark_impossible(values: np.ndarray) -> np.ndarray:
    """Return which rows hold a number that is no measurement, bool [rows]; NaN counts."""
    return ~(np.abs(values) <= _IMPOSSIBLE).all(axis=1)


def _find_extremes(values: np.ndarray, where: str) -> list[DataFinding]:
    """Return a finding if numbers are questionable."""
    count = int((np.abs(values) > _FAR).any(axis=1).sum())
    text = (
        f"{where}: {count} value(s) are over {_FAR:g} scales from its center (training clips them at {MAX_FEATURE:g}): "
        "another unit, a typing error or a code for missing values, or a center and scale that do not fit the column."
    )
    return [_count_finding(text)] * (count > 0)


def check_cells(found: ParsedCells, cells: Sequence[str], lines: Sequence[int], where: str) -> None:
    """Refuse a column with cells that cannot be read.

    Args:
        found: the parsed cells.
        cells: as they are in the file.
        lines: of the cells.
        where: file and column.

    Raises:
        DataError: with lines, examples and reasons.

    """
    if not found.faults:
        return
    places = sorted(found.faults)
    seen = ", ".join(repr(cell) for cell in dict.fromkeys(cells[place].strip() for place in places[:_SHOWN]))
    reasons = "; ".join(list(dict.fromkeys(found.faults[place] for place in places))[:_SHOWN])
    raise DataError(
        f"{where}, {format_line_numbers(lines[place] for place in places)}: {seen}: {reasons}.",
        "Correct the cells, or declare the codes or words; leave a cell empty if the value is missing.",
    )


def _encode_numeric(values: Sequence[str], column: TabularColumnConfig) -> np.ndarray:
    numbers = np.array([float(value) if value else column.center for value in values], np.float64)
    with np.errstate(all="ignore"):  # what overflows is found afterwards
        return ((numbers - column.center) / column.scale)[:, None]


def _encode_categorical(values: Sequence[str], column: TabularColumnConfig) -> np.ndarray:
    codes = {level: index for index, level in enumerate(column.levels)}
    onehot = np.zeros((len(values), len(column.levels)), np.float32)
    for row, value in enumerate(values):
        if value:
            onehot[row, codes[value]] = 1.0
    return onehot
