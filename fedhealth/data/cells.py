"""Read a table's cells as the consortium means them: codes for missing values, words, decimal commas, units, ranges.

Nothing is guessed. A cell that is neither a declared word nor what its column needs is a fault, with its reason.
Results are again text, so that they can be written to a manifest and read once more with the same result.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from fedhealth.config.schema import ColumnKind, TabularColumnConfig, TaskConfig, TaskKind
from fedhealth.data.findings import DataFinding, FindingKind

UNCERTAIN = "-1"
"""CheXpert's label for a finding that the report mentions as possible (Irvin et al., AAAI 2019)."""
DROP = "drop"

_NUMBER = re.compile(r"[+-]?(?:\d[\d.,'\u2009\u202f]*|[.,]\d+)(?:[eE][+-]?\d+)?")
_THOUSANDS = {",": re.compile(r"[+-]?\d{1,3}(?:\.\d{3})+(?:,\d+)?"), ".": re.compile(r"(?!)")}
_SPECIAL = re.compile(r"[+-]?(?:inf|infinity|nan)", re.IGNORECASE)


@dataclass(frozen=True)
class CellFormat:
    """How a table writes values.

    Attributes:
        decimal: `.` or `,`.
        unit: of its numbers; empty = the consortium's.
        words: its own words, by the consortium's value.

    """

    decimal: str = "."
    unit: str = ""
    words: Mapping[str, str] = field(default_factory=dict)


@dataclass
class ParsedCells:
    """A column's cells as the consortium means them.

    Attributes:
        values: empty = missing.
        faults: reason by row.
        outside: number of values outside the valid range, which count as missing.
        uncertain: number of uncertain labels.

    """

    values: list[str]
    faults: dict[int, str]
    outside: int = 0
    uncertain: int = 0

    def find_findings(self, where: str) -> Iterator[DataFinding]:
        """Yield what a person must know of the column."""
        if self.outside:
            text = f"{where}: {self.outside} value(s) outside the consortium's valid range count as missing."
            yield DataFinding(FindingKind.values, text, True)
        if self.uncertain:
            text = f"{where}: {self.uncertain} label(s) are uncertain (-1)."
            yield DataFinding(FindingKind.labels, text)


class _CellError(ValueError):
    """A cell cannot be read; the message is the reason."""


def parse_labels(cells: Sequence[str], task: TaskConfig, given: CellFormat) -> ParsedCells:
    """Return class names (0 or 1 for a multilabel task); uncertain labels as the task says, `-1` to drop the row."""
    classes = ["0", "1"] if task.kind is TaskKind.multilabel else list(task.classes)
    known = {word: word for word in classes}
    if not any(word.isdigit() for word in classes):  # if class names are numbers, indices would be ambiguous
        known |= {str(index): word for index, word in enumerate(classes)}
    known |= {f"{key}.0": word for key, word in known.items() if key.isdigit()}
    known |= {word: known.get(meaning, "") for word, meaning in {**task.words, **given.words}.items()}
    found = ParsedCells([], {})
    chosen = _get_uncertain_value(task, classes)
    for place, cell in enumerate(cells):
        text = cell.strip()
        if text in ("-1", "-1.0") and text not in known and chosen is not None:
            found.uncertain += 1
            found.values.append(chosen)
        elif text == "" or text in known:
            found.values.append(known.get(text, ""))
        else:
            found.values.append("")
            found.faults[place] = _explain_label(text)
    return found


def parse_values(cells: Sequence[str], column: TabularColumnConfig, given: CellFormat) -> ParsedCells:
    """Return numbers in the consortium's unit, or levels."""
    parse = _parse_level if column.kind is ColumnKind.categorical else _parse_number
    read: Callable[[str], str] = lambda text: parse(text, column, given)  # noqa: E731 - bound once for the loop
    is_missing = _make_missing_test(column)
    words = {**column.words, **given.words}
    found = ParsedCells([], {})
    for place, cell in enumerate(cells):
        text = cell.strip()
        text = words.get(text, text)
        value = ""
        if text and not is_missing(text):
            try:
                value = read(text)
            except _CellError as fault:
                found.faults[place] = str(fault)
        if value and column.kind is ColumnKind.numeric and _is_outside(float(value), column.valid_range):
            found.outside += 1
            value = ""
        found.values.append(value)
    return found


def _get_uncertain_value(task: TaskConfig, classes: Sequence[str]) -> str | None:
    """Return what stands for an uncertain label; None if the task does not say."""
    if task.uncertain is None:
        return None
    return {"missing": "", "0": classes[0], "1": classes[1], DROP: UNCERTAIN}[task.uncertain]


def _explain_label(text: str) -> str:
    if text in ("-1", "-1.0"):
        return "an uncertain label: set data.task.uncertain to missing, 0, 1 or drop"
    return "not a class: correct it, or declare the word"


def _make_missing_test(column: TabularColumnConfig) -> Callable[[str], bool]:
    """Return a function that tells missing codes, whatever their spelling as numbers (9999, 9999.0)."""
    codes = set(column.missing_codes)
    numbers = {value for value in map(_to_float, codes) if value is not None}
    return lambda text: text in codes or (bool(numbers) and _to_float(text.replace(",", ".")) in numbers)


def _to_float(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _parse_number(text: str, column: TabularColumnConfig, given: CellFormat) -> str:
    """Return a number in the consortium's unit as text."""
    special = _SPECIAL.fullmatch(text)
    if special:
        if column.valid_range and "nan" not in text.lower():
            return text  # beyond every range
        raise _CellError("not a finite number")
    match = _NUMBER.match(text)
    if match is None:
        raise _CellError("not a number")
    unit = text[match.end() :].strip() or given.unit
    return repr(_read_decimal(match[0], given.decimal) * _get_factor(unit, column))


def _read_decimal(text: str, decimal: str) -> float:
    plain = text
    if decimal == ",":
        if "." in text and not _THOUSANDS[","].fullmatch(text):
            raise _CellError("a decimal point in a table with decimal commas")
        plain = text.replace(".", "").replace(",", ".")
    elif "," in text:
        raise _CellError('a comma: if it is a decimal comma, set decimal: ","')
    value = _to_float(plain)
    if value is None or not math.isfinite(value):
        raise _CellError("not a finite number")
    return value


def _get_factor(unit: str, column: TabularColumnConfig) -> float:
    if unit in ("", column.unit):
        return 1.0
    if unit in column.conversions:
        return column.conversions[unit]
    known = ", ".join(filter(None, (column.unit, *column.conversions))) or "none"
    raise _CellError(f"unknown unit {unit[:20]!r} (declared: {known})")


def _is_outside(value: float, valid: Sequence[float]) -> bool:
    return bool(valid) and not valid[0] <= value <= valid[1]


def _parse_level(text: str, column: TabularColumnConfig, given: CellFormat) -> str:
    if text in column.levels:
        return text
    if text.endswith(".0") and text[:-2].isdigit() and text[:-2] in column.levels:
        return text[:-2]
    raise _CellError(f"not a level; levels are {', '.join(column.levels)}")
