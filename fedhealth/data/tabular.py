"""Encode clinical variables with public constants only; no site statistic is used."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd

from fedhealth.config.schema import ColumnKind, TabularColumnConfig
from fedhealth.data.manifest import format_line_numbers
from fedhealth.errors import DataError


def count_features(columns: dict[str, TabularColumnConfig]) -> int:
    """Return how many features `encode_columns` makes: 2 for numeric (value, missing), levels + 1 for categorical."""
    return sum(2 if column.kind is ColumnKind.numeric else len(column.levels) + 1 for column in columns.values())


def encode_columns(
    rows: pd.DataFrame, columns: dict[str, TabularColumnConfig], path: Path
) -> tuple[np.ndarray, np.ndarray]:
    """Encode the `tabular.*` columns of a manifest.

    Returns:
        features float32 [rows, features], and bool [rows] (True = the row has at least one value).

    Raises:
        DataError: a cell is not a number, not finite, or missing although the column is required.

    """
    blocks: list[np.ndarray] = []
    missing: list[np.ndarray] = []
    for name, column in columns.items():
        cells = rows[f"tabular.{name}"]
        absent = ((cells == "") | cells.isin(column.missing_codes)).to_numpy()
        if column.required and absent.any():
            raise DataError(
                f"{path}: column {name!r} is required but empty in {format_line_numbers(rows['line'][absent])}.",
                "Fill it, or set required: false for this column.",
            )
        encoder = _encode_numeric if column.kind is ColumnKind.numeric else _encode_categorical
        blocks.append(
            np.column_stack([encoder(cells, absent, column, rows["line"], f"{path}: column {name!r}"), absent])
        )
        missing.append(absent)
    if not blocks:
        return np.zeros((len(rows), 0), np.float32), np.zeros(len(rows), bool)
    return np.concatenate(blocks, axis=1).astype(np.float32), ~np.all(np.stack(missing), axis=0, keepdims=True)[0]


def _encode_numeric(
    cells: pd.Series[str], absent: np.ndarray, column: TabularColumnConfig, line: pd.Series[int], where: str
) -> np.ndarray:
    values = np.array([_parse_float(cell) for cell in cells], np.float64)
    values[absent] = column.center
    scaled = (values - column.center) / column.scale
    bad = ~(np.abs(scaled) <= np.finfo(np.float32).max)  # also true for NaN
    if bad.any():
        seen = ", ".join(repr(cell) for cell in cells[bad].unique()[:3])
        raise DataError(
            f"{where}: not a finite number in {format_line_numbers(line[bad])}: {seen}.",
            "Correct the cells; leave a cell empty if the value is missing.",
        )
    return scaled


def _parse_float(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return math.nan


def _encode_categorical(
    cells: pd.Series[str], absent: np.ndarray, column: TabularColumnConfig, line: pd.Series[int], where: str
) -> np.ndarray:
    codes = {level: index for index, level in enumerate(column.levels)}
    codes |= {f"{level}.0": index for index, level in enumerate(column.levels) if level.isdigit()}
    index = np.array([codes.get(cell, -1) for cell in cells])
    if (unknown := (index < 0) & ~absent).any():
        raise DataError(
            f"{where}: unknown level {cells[unknown].iloc[0]!r} in {format_line_numbers(line[unknown])}.",
            f"Levels: {', '.join(column.levels)}; add it to data.tabular or correct the cells.",
        )
    onehot = np.zeros((len(cells), len(column.levels)), np.float32)
    onehot[np.flatnonzero(~absent), index[~absent]] = 1.0
    return onehot
