"""Read a site's manifest: one table, one row per study, the columns named by the configuration.

Everything is read as text first, so that an empty cell (a missing value, normal in hospitals) can be told from a cell
that says `NaN` or `inf` (a fault of the export). Faults are collected and reported together, with line numbers.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from fedhealth.config.schema import DataConfig, SplitConfig, TaskConfig, TaskKind
from fedhealth.errors import DataError

SPLITS = ("train", "validation", "test")
_SPLIT_WORDS = {"train": "train", "training": "train", "validation": "validation", "valid": "validation"}
_SPLIT_WORDS |= {"val": "validation", "dev": "validation", "test": "test", "testing": "test"}
_SHOWN = 5  # faulty lines named in a message; the rest are counted


@dataclass(frozen=True)
class Manifest:
    """A site's rows, checked, still as text where the file has text.

    Attributes:
        path: the file it was read from.
        table: one row per study and image, columns `line` (in the file), `patient`, `study`, `image`, `text`, `split`
            and the raw tabular columns; empty string = missing.
        labels: float32 [rows, K]; NaN = missing. K is the number of label columns.

    """

    path: Path
    table: pd.DataFrame
    labels: np.ndarray


def manifest_path(data: DataConfig, site: str) -> Path:
    """Return where `site`'s manifest lies (`{site}` in `data.manifest` stands for its name)."""
    return Path(data.root).expanduser() / data.manifest.replace("{site}", site)


def read_manifest(data: DataConfig, site: str) -> Manifest:
    """Read and check the rows of `site`.

    Raises:
        DataError: file or column missing, no rows, label outside the task, a patient in two splits.

    """
    path = manifest_path(data, site)
    table = _numbered(read_table(path))
    _require_columns(table, data, path)
    if data.site_column:
        table = table[table[data.site_column].str.strip() == site]
    if data.columns.split and data.split.drop_unlisted:
        table = table[table[data.columns.split].str.strip() != ""]
    if table.empty:
        raise DataError(f"{path}: site {site!r} has no rows.", _empty_advice(data))
    labels = _parse_labels(table, data, path)
    rows = _canonical(table, data, path)
    rows["split"] = _splits(rows, data.split, path)
    rows = rows.assign(position=np.arange(len(rows)), image=rows["image"].map(_paths)).explode("image")
    return Manifest(path, rows.drop(columns="position").reset_index(drop=True), labels[rows["position"].to_numpy()])


def read_table(path: Path) -> pd.DataFrame:
    """Read a file as text, one row a line; empty string = empty cell.

    Raises:
        DataError: there is none, or it is no table.

    """
    if not path.is_file():
        raise DataError(f"{path}: there is no such manifest.", "Check data.root and data.manifest.")
    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path).astype(object).where(lambda cell: cell.notna(), "").astype(str)
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig", skip_blank_lines=False)
    except (ValueError, OSError) as fault:  # ParserError, ArrowInvalid and UnicodeDecodeError are ValueErrors
        raise DataError(
            f"{path}: cannot be read as a table ({str(fault).splitlines()[0]}).",
            "Export it as UTF-8 CSV or Parquet.",
        ) from fault
    if not isinstance(table.index, pd.RangeIndex):  # pandas takes surplus cells for row names and shifts the rest
        raise DataError(f"{path}: the rows have more cells than the header.", "Name every column in the first line.")
    return table


def _numbered(table: pd.DataFrame) -> pd.DataFrame:
    """Index the rows by their first line in the file (a quoted note may span several); drop blank lines."""
    breaks = sum((table[column].str.count("\n") for column in table.columns), np.zeros(len(table), np.int64))
    numbers = np.arange(2, len(table) + 2) + np.cumsum(breaks) - breaks
    return table.set_axis(pd.Index(numbers, dtype=np.int64))[(table != "").any(axis=1).to_numpy()]


def _require_columns(table: pd.DataFrame, data: DataConfig, path: Path) -> None:
    named = data.columns
    wanted = [
        named.patient,
        named.study,
        named.image,
        named.text,
        named.text_path,
        named.split,
        data.site_column,
    ]
    wanted += [*named.labels, *data.tabular]
    faults = []
    for column in dict.fromkeys(column for column in wanted if column):
        if column not in table.columns:
            close = difflib.get_close_matches(column, table.columns, n=1)
            faults.append(f"{column!r}" + (f" (did you mean {close[0]!r}?)" if close else ""))
    if faults:
        has = ", ".join(map(str, table.columns))
        raise DataError(
            f"{path}: missing column {', '.join(faults)}.",
            f"Name the right columns in data.columns and data.tabular; the file has: {has}.",
        )


def _empty_advice(data: DataConfig) -> str:
    return (
        f"Check data.sites and the column {data.site_column!r}."
        if data.site_column
        else "Add rows, or take the site out of data.sites."
    )


def _canonical(table: pd.DataFrame, data: DataConfig, path: Path) -> pd.DataFrame:
    """Return the table under our own column names, texts read in."""
    named = data.columns
    blank = pd.Series("", index=table.index)
    own = pd.Series([f"line {line}" for line in table.index], index=table.index)
    patient = table[named.patient].str.strip() if named.patient else own
    rows = pd.DataFrame({"line": table.index, "patient": patient}, index=table.index)
    rows["study"] = _studies(table[named.study] if named.study else blank, rows["patient"])
    rows["image"] = table[named.image].str.strip() if named.image else blank
    rows["text"] = table[named.text].str.strip() if named.text else blank
    if named.text_path:
        rows["text"] = _read_texts(table[named.text_path], rows["text"], path)
    rows["split"] = table[named.split].str.strip().str.lower() if named.split else blank
    for column in data.tabular:
        rows[f"tabular.{column}"] = table[column].str.strip()
    if len(nameless := rows.index[rows["patient"] == ""]):
        raise DataError(
            f"{path}: no patient id in {lines(rows.loc[nameless, 'line'])}.",
            f"Fill the column {named.patient!r}: splits and privacy are by patient.",
        )
    return rows


def _studies(named: pd.Series[str], patient: pd.Series[str]) -> pd.Series[str]:
    """Return an id for each row's study: unique beyond its patient, and a row's own where none is given."""
    own = named.str.strip()
    return patient + "|" + own.mask(own == "", pd.Series([f"line {line}" for line in own.index], own.index))


def _paths(cell: str) -> list[str]:
    return [name for name in map(str.strip, cell.split(";")) if name] or [""]


def _read_texts(paths: pd.Series[str], inline: pd.Series[str], manifest: Path) -> list[str]:
    texts = []
    for line, name, text in zip(paths.index, paths.str.strip(), inline, strict=True):
        file = manifest.parent / name
        if name and not file.is_file():
            raise DataError(
                f"{manifest}: text file {name!r} in {lines([line])} does not exist.",
                "Correct the path, or leave the cell empty if there is no text.",
            )
        texts.append(file.read_text("utf-8", errors="replace").strip() if name else text)
    return texts


def _parse_labels(table: pd.DataFrame, data: DataConfig, path: Path) -> np.ndarray:
    columns = [_label_codes(table[name].str.strip(), name, data.task) for name in data.columns.labels]
    codes = np.stack(columns, axis=1)
    outside = np.isinf(codes).any(axis=1)
    if outside.any():
        seen = sorted(
            {str(table[name].iloc[i]) for name in data.columns.labels for i in np.flatnonzero(outside)[:_SHOWN]}
        )
        raise DataError(
            f"{path}: label outside the task in {lines(table.index[outside])}: {', '.join(map(repr, seen))}.",
            f"Allowed: {_allowed(data.task)}; leave the cell empty where the label is unknown.",
        )
    return codes


def _allowed(task: TaskConfig) -> str:
    if task.kind is TaskKind.multilabel:
        return "0, 1"
    named = ", ".join(task.classes)
    return named if any(word.isdigit() for word in task.classes) else f"{named}, or 0..{len(task.classes) - 1}"


def _label_codes(cells: pd.Series[str], name: str, task: TaskConfig) -> np.ndarray:
    """Return class indices; NaN = missing, inf = outside the task."""
    classes = ["0", "1"] if task.kind is TaskKind.multilabel else list(task.classes)
    codes = {word: float(index) for index, word in enumerate(classes)}
    if not any(word.isdigit() for word in classes):  # names that are numbers leave no room for indices
        codes |= {str(index): float(index) for index in range(len(classes))}
    codes |= {f"{key}.0": value for key, value in codes.items() if key.isdigit()} | {"": np.nan}
    return np.array([codes.get(cell, np.inf) for cell in cells], dtype=np.float32)


def _splits(rows: pd.DataFrame, shares: SplitConfig, path: Path) -> pd.Series[str]:
    """Return each row's split; patients without one are placed by a hash of their id."""
    given = rows["split"].map(_SPLIT_WORDS)
    if (unknown := (rows["split"] != "") & given.isna()).any():
        raise DataError(
            f"{path}: unknown split {rows['split'][unknown].iloc[0]!r} in {lines(rows['line'][unknown])}.",
            "Use train, validation or test, or leave the cell empty.",
        )
    per_patient = given.groupby(rows["patient"]).nunique()
    if len(torn := per_patient.index[per_patient > 1]):
        first = rows["line"][rows["patient"].isin(torn)]
        raise DataError(
            f"{path}: {len(torn)} patient(s) in more than one split, {lines(first)}.",
            "Put all studies of a patient into one split; otherwise scores are too good to be true.",
        )
    draw = rows["patient"].map({patient: _uniform(patient) for patient in rows["patient"].unique()})
    given = given.groupby(rows["patient"]).transform("first")  # a patient's rows without a split follow the others
    if given.notna().any():
        # The file says train or test; validation, where it is not given, is cut from train.
        own_validation = (given == "validation").any()
        cut = (given == "train") & (draw < shares.validation) & (not own_validation)
        return given.fillna("train").mask(cut, "validation")
    edges = [shares.test, shares.test + shares.validation]
    return pd.Series(np.select([draw < edges[0], draw < edges[1]], ["test", "validation"], "train"), index=rows.index)


def _uniform(patient: str) -> float:
    """Return a number in [0, 1) that depends on the patient alone: adding patients moves nobody."""
    return int.from_bytes(hashlib.sha256(f"split|{patient}".encode()).digest()[:8], "big") / 2**64


def lines(numbers: Iterable[int]) -> str:
    """Return `line 3, 7 and 12 more`, for messages."""
    listed = sorted(set(numbers))
    shown = ", ".join(map(str, listed[:_SHOWN]))
    return f"line {shown}" + (f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else "")
