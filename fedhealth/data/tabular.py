"""Encode clinical variables with public constants only; no site statistic is used."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from fedhealth.config.schema import ColumnKind, TabularColumnConfig
from fedhealth.data.cells import CellFormat, ParsedCells, parse_values
from fedhealth.data.findings import DataFinding
from fedhealth.data.manifest import format_line_numbers
from fedhealth.errors import DataError

_SHOWN = 3  # cells and reasons in a message


def count_features(columns: dict[str, TabularColumnConfig]) -> int:
    """Return how many features `encode_columns` makes: 2 for numeric (value, missing), levels + 1 for categorical."""
    return sum(2 if column.kind is ColumnKind.numeric else len(column.levels) + 1 for column in columns.values())


class EncodedColumns(NamedTuple):
    """Clinical variables as features.

    Attributes:
        features: float32 [rows, features].
        present: bool [rows], whether the row has at least one value.
        findings: what a person must know of the values.

    """

    features: np.ndarray
    present: np.ndarray
    findings: tuple[DataFinding, ...]


def encode_columns(
    rows: pd.DataFrame, columns: dict[str, TabularColumnConfig], path: Path, decimal: str = "."
) -> EncodedColumns:
    """Encode the `tabular.*` columns of a manifest.

    Raises:
        DataError: a cell is not what its column needs, or missing although the column is required.

    """
    blocks, missing, findings = list[np.ndarray](), list[np.ndarray](), list[DataFinding]()
    for name, column in columns.items():
        found = parse_values(rows[f"tabular.{name}"].tolist(), column, CellFormat(decimal))
        check_cells(found, rows[f"tabular.{name}"].tolist(), rows["line"].tolist(), f"{path}: column {name!r}")
        absent = np.array([value == "" for value in found.values], bool)
        if column.required and absent.any():
            raise DataError(
                f"{path}: column {name!r} is required but empty in {format_line_numbers(rows['line'][absent])}.",
                "Fill it, or set required: false for this column.",
            )
        if column.kind is ColumnKind.numeric:
            values = _encode_numeric(found.values, column, rows["line"], f"{path}: column {name!r}")
        else:
            values = _encode_categorical(found.values, column)
        blocks.append(np.column_stack([values, absent]))
        missing.append(absent)
        findings += found.find_findings(f"Column {name!r}")
    if not blocks:
        return EncodedColumns(np.zeros((len(rows), 0), np.float32), np.zeros(len(rows), bool), ())
    features = np.concatenate(blocks, axis=1).astype(np.float32)
    return EncodedColumns(features, ~np.all(np.stack(missing), axis=0), tuple(findings))


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


def _encode_numeric(values: Sequence[str], column: TabularColumnConfig, line: pd.Series[int], where: str) -> np.ndarray:
    numbers = np.array([float(value) if value else column.center for value in values], np.float64)
    scaled = (numbers - column.center) / column.scale
    bad = ~(np.abs(scaled) <= np.finfo(np.float32).max)  # also true for NaN
    if bad.any():
        raise DataError(
            f"{where}, {format_line_numbers(line[bad])}: too large a number.",
            "Correct the cells; leave a cell empty if the value is missing.",
        )
    return scaled


def _encode_categorical(values: Sequence[str], column: TabularColumnConfig) -> np.ndarray:
    codes = {level: index for index, level in enumerate(column.levels)}
    onehot = np.zeros((len(values), len(column.levels)), np.float32)
    for row, value in enumerate(values):
        if value:
            onehot[row, codes[value]] = 1.0
    return onehot
