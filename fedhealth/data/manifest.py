"""Read a site's manifest: one table, one row per study, with the column names of the configuration.

All cells are read as text first. This separates an empty cell (a missing value, normal in hospitals) from a cell
with `NaN` or `inf` (an export error). Faults are collected and reported together, with line numbers.
"""

from __future__ import annotations

import difflib
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from fedhealth.config.schema import DataConfig, FaultyCells, SplitConfig, TaskConfig, TaskKind
from fedhealth.data.cells import UNCERTAIN, CellFormat, ParsedCells, parse_labels
from fedhealth.data.find_file import find_file
from fedhealth.data.findings import DataFinding, FindingKind
from fedhealth.data.identifiers import check_lost_digits, clean_identifier
from fedhealth.data.read_table import read_table
from fedhealth.data.texts import find_text_findings, read_text_file, select_texts
from fedhealth.errors import DataError
from fedhealth.utils.user_path import expand_user

SPLITS = ("train", "validation", "test")
_SPLIT_WORDS = {"train": "train", "training": "train", "validation": "validation", "valid": "validation"}
_SPLIT_WORDS |= {"val": "validation", "dev": "validation", "test": "test", "testing": "test"}
_SHOWN = 5  # faulty lines named in a message; the rest are counted


@dataclass(frozen=True)
class Manifest:
    """A site's validated rows; cells are still text, except the labels.

    Attributes:
        path: the file it was read from.
        table: one row per study and image, columns `line` (in the file), `patient`, `study`, `image`, `text`, `split`
            and the raw tabular columns; empty string = missing.
        labels: float32 [rows, K]; NaN = missing. K is the number of label columns.
        findings: what a person must know of the rows.

    """

    path: Path
    table: pd.DataFrame
    labels: np.ndarray
    findings: tuple[DataFinding, ...] = ()


def get_manifest_path(data: DataConfig, site: str) -> Path:
    """Return the path of `site`'s manifest (`{site}` in `data.manifest` is replaced by its name)."""
    return expand_user(data.root) / data.manifest.replace("{site}", site)


def read_manifest(data: DataConfig, site: str) -> Manifest:
    """Read and check the rows of `site`.

    Raises:
        DataError: file or column missing, no rows, label outside the task, a patient in two splits.

    """
    path = get_manifest_path(data, site)
    whole = _read_rows(path)
    table = whole.table
    _require_columns(table, data, path)
    if data.site_column:
        table = table.iloc[whole.find_rows(data.site_column, site)]
    if data.columns.split and data.split.drop_unlisted:
        table = table[table[data.columns.split].str.strip() != ""]
    if table.empty:
        raise DataError(f"{path}: site {site!r} has no rows.", _empty_advice(data))
    labels, findings = _parse_labels(table, data, path)
    kept = ~(labels == -1.0).any(axis=1)
    table, labels = table[kept], labels[kept]
    rows, of_texts = _normalize_columns(table, data, path)
    findings += of_texts
    rows["split"] = _assign_splits(rows, data.split, path)
    rows = rows.assign(position=np.arange(len(rows)), image=rows["image"].map(_split_paths)).explode("image")
    return Manifest(
        path, rows.drop(columns="position").reset_index(drop=True), labels[rows["position"].to_numpy()], tuple(findings)
    )


class _WholeTable:
    """A table of one or many sites, which is only read.

    Attributes:
        table: all cells as text, indexed by the line in the file.

    """

    def __init__(self, table: pd.DataFrame) -> None:
        self.table = table
        self._rows: dict[str, Mapping[str, np.ndarray]] = {}

    def find_rows(self, column: str, site: str) -> np.ndarray:
        """Return the positions of a site's rows, which a column names."""
        if column not in self._rows:
            names = self.table[column].str.strip()
            places = names.groupby(names, sort=False).indices
            self._rows[column] = {str(name): np.asarray(rows) for name, rows in places.items()}
        return self._rows[column].get(site, np.zeros(0, np.int64))


def _read_rows(path: Path) -> _WholeTable:
    """Return the table of a file, which the sites of one process read once, as long as it does not change."""
    if not path.is_file():
        raise DataError(f"{path}: the manifest does not exist.", "Check data.root and data.manifest.")
    about = path.stat()
    return _parse_rows(path, (about.st_ino, about.st_size, about.st_mtime_ns))


@lru_cache(maxsize=1)
def _parse_rows(path: Path, _version: tuple[int, int, int]) -> _WholeTable:
    table = read_table(path)
    return _WholeTable(pd.DataFrame(dict(table.columns), index=pd.Index(table.lines, dtype=np.int64), dtype=object))


def _require_columns(table: pd.DataFrame, data: DataConfig, path: Path) -> None:
    named = data.columns
    wanted = [named.patient, named.study, named.image, named.text, named.text_path, named.split, data.site_column]
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
            f"Correct the column names in data.columns and data.tabular; the file has: {has}.",
        )


def _empty_advice(data: DataConfig) -> str:
    return (
        f"Check data.sites and the column {data.site_column!r}."
        if data.site_column
        else "Add rows, or remove the site from data.sites."
    )


def _normalize_columns(table: pd.DataFrame, data: DataConfig, path: Path) -> tuple[pd.DataFrame, Iterator[DataFinding]]:
    """Return the table with standard column names and the texts loaded, and findings about the texts."""
    named = data.columns
    blank = pd.Series("", index=table.index)
    own = pd.Series([f"line {line}" for line in table.index], index=table.index)
    patient = _read_patients(table[named.patient], path) if named.patient else own
    rows = pd.DataFrame({"line": table.index, "patient": patient}, index=table.index)
    rows["study"] = _make_study_ids(table[named.study] if named.study else blank, rows["patient"])
    rows["image"] = table[named.image].str.strip() if named.image else blank
    texts, reasons = table[named.text].tolist() if named.text else blank.tolist(), Counter[str]()
    if named.text_path:
        texts, reasons = _read_texts(table[named.text_path], pd.Series(texts, index=table.index), path)
    rows["text"], damaged = select_texts(texts)
    rows["split"] = table[named.split].str.strip().str.lower() if named.split else blank
    for column in data.tabular:
        rows[f"tabular.{column}"] = table[column].str.strip()
    if len(nameless := rows.index[rows["patient"] == ""]):
        raise DataError(
            f"{path}: no patient id in {format_line_numbers(rows.loc[nameless, 'line'])}.",
            f"Fill the column {named.patient!r}: splits and privacy budgets are per patient.",
        )
    return rows, find_text_findings("The manifest", reasons + damaged)


def _read_patients(cells: pd.Series[str], path: Path) -> pd.Series[str]:
    check_lost_digits(f"{path}: column {cells.name!r}", cells)
    return cells.map(clean_identifier)


def _make_study_ids(named: pd.Series[str], patient: pd.Series[str]) -> pd.Series[str]:
    """Return a globally unique study id for each row; a row without a study id is a study of its own."""
    own = named.str.strip()
    return patient + "|" + own.mask(own == "", pd.Series([f"line {line}" for line in own.index], own.index))


def _split_paths(cell: str) -> list[str]:
    return [name for name in map(str.strip, cell.split(";")) if name] or [""]


def _read_texts(paths: pd.Series[str], inline: pd.Series[str], manifest: Path) -> tuple[list[str], Counter[str]]:
    """Return the texts of files, or else of the table; and why files are set aside."""
    texts, reasons = [], Counter[str]()
    for line, name, text in zip(paths.index, paths.str.strip(), inline, strict=True):
        file = find_file(manifest.parent, name) if name else None
        if name and file is None:
            raise DataError(
                f"{manifest}: text file {name!r} in {format_line_numbers([line])} does not exist.",
                "Correct the path, or leave the cell empty if there is no text.",
            )
        found, reason = read_text_file(file) if file else (text, "")
        reasons.update([reason] * bool(reason))
        texts.append(found)
    return texts, reasons


def _parse_labels(table: pd.DataFrame, data: DataConfig, path: Path) -> tuple[np.ndarray, list[DataFinding]]:
    """Return class indices, -1 for uncertain labels whose rows are dropped; and findings."""
    classes = ["0", "1"] if data.task.kind is TaskKind.multilabel else list(data.task.classes)
    codes = {word: float(index) for index, word in enumerate(classes)} | {"": np.nan, UNCERTAIN: -1.0}
    columns, findings = [], list[DataFinding]()
    for name in data.columns.labels:
        found = parse_labels(table[name].tolist(), data.task, CellFormat())
        if found.faults and data.faulty_cells is FaultyCells.refuse:
            raise _explain_labels(found, table[name], data.task, path)
        if found.faults:
            text = f"Column {name!r}: {len(found.faults)} label(s) do not fit the description and count as missing."
            findings.append(DataFinding(FindingKind.labels, text, True))
        columns.append(np.array([codes[value] for value in found.values], np.float32))
        findings += found.find_findings(f"Column {name!r}")
    return np.stack(columns, axis=1), findings


def _explain_labels(found: ParsedCells, cells: pd.Series[str], task: TaskConfig, path: Path) -> DataError:
    places = sorted(found.faults)
    seen = ", ".join(sorted({repr(cells.iloc[place].strip()) for place in places[:_SHOWN]}))
    reasons = "; ".join(dict.fromkeys(found.faults[place] for place in places))
    lines = format_line_numbers(cells.index[places])
    return DataError(
        f"{path}: column {cells.name!r}: invalid label in {lines}: {seen}: {reasons}.",
        f"Allowed: {_format_allowed_labels(task)}; leave the cell empty if the label is unknown.",
    )


def _format_allowed_labels(task: TaskConfig) -> str:
    if task.kind is TaskKind.multilabel:
        return "0, 1"
    named = ", ".join([*task.classes, *task.words])
    return named if any(word.isdigit() for word in task.classes) else f"{named}, or 0..{len(task.classes) - 1}"


def _assign_splits(rows: pd.DataFrame, shares: SplitConfig, path: Path) -> pd.Series[str]:
    """Return each row's split; patients without one are assigned by a hash of their id."""
    given = rows["split"].map(_SPLIT_WORDS)
    if (unknown := (rows["split"] != "") & given.isna()).any():
        lines = format_line_numbers(rows["line"][unknown])
        raise DataError(
            f"{path}: unknown split {rows['split'][unknown].iloc[0]!r} in {lines}.",
            "Use train, validation or test, or leave the cell empty.",
        )
    per_patient = given.groupby(rows["patient"]).nunique()
    if len(torn := per_patient.index[per_patient > 1]):
        first = rows["line"][rows["patient"].isin(torn)]
        raise DataError(
            f"{path}: {len(torn)} patient(s) in more than one split, {format_line_numbers(first)}.",
            "Put all studies of a patient into one split; otherwise test scores are too high.",
        )
    draw = rows["patient"].map({patient: _hash_to_unit_interval(patient) for patient in rows["patient"].unique()})
    given = given.groupby(rows["patient"]).transform(
        "first"
    )  # rows without a split get the patient's other rows' split
    if given.notna().any():
        # The file assigns train and test; validation, if it is not given, is taken from train.
        own_validation = (given == "validation").any()
        cut = (given == "train") & (draw < shares.validation) & (not own_validation)
        return given.fillna("train").mask(cut, "validation")
    edges = [shares.test, shares.test + shares.validation]
    return pd.Series(np.select([draw < edges[0], draw < edges[1]], ["test", "validation"], "train"), index=rows.index)


def _hash_to_unit_interval(patient: str) -> float:
    """Return a number in [0, 1) that depends on the patient id only, so new patients do not change others' splits."""
    return int.from_bytes(hashlib.sha256(f"split|{patient}".encode()).digest()[:8], "big") / 2**64


def format_line_numbers(numbers: Iterable[int]) -> str:
    """Return a text such as `line 3, 7 and 12 more`."""
    listed = sorted(set(numbers))
    shown = ", ".join(map(str, listed[:_SHOWN]))
    return f"line {shown}" + (f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else "")
