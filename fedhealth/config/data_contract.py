"""Check how the consortium's description of the data reads cells: words, uncertain labels, units and valid ranges."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fedhealth.config.windows import parse_windows
from fedhealth.errors import ConfigError

UNCERTAIN_CHOICES = ("missing", "0", "1", "drop")
_BOOLEANS = ("True", "False")  # what YAML makes of an unquoted yes, no, on, off, true and false


def find_data_errors(data: dict[str, Any]) -> Iterator[str]:
    """Yield what is wrong with how the description reads cells and grey values."""
    for name, column in data["tabular"].items():
        yield from _find_column_errors(name, column)
    yield from _find_word_errors(data)
    yield from _find_window_errors(data["image"])


def _find_column_errors(name: str, column: dict[str, Any]) -> Iterator[str]:
    where, valid = f"data.tabular.{name}", column["valid_range"]
    if valid and not (len(valid) == 2 and valid[0] < valid[1]):
        yield f"{where}.valid_range: give the lowest and the highest value, such as [0, 500]."
    if any(not factor > 0 for factor in column["conversions"].values()):
        yield f"{where}.conversions: factors must be positive."
    for key in ("levels", "missing_codes", "words"):
        yield from _find_unquoted(f"{where}.{key}", column[key])


def _find_word_errors(data: dict[str, Any]) -> Iterator[str]:
    task = data["task"]
    yield from _find_unquoted("data.task.classes", task["classes"])
    yield from _find_unquoted("data.task.words", task["words"])
    known = {*task["classes"], "0", "1"}
    for word, meaning in task["words"].items():
        if meaning not in known:
            yield f"data.task.words.{word}: {meaning!r} is no class; classes are {', '.join(task['classes'])}."
    if task["uncertain"] not in (None, *UNCERTAIN_CHOICES):
        yield f"data.task.uncertain: must be one of {', '.join(UNCERTAIN_CHOICES)}, or null."
    if data["decimal"] not in (".", ","):
        yield f"data.decimal: must be . or a comma, is {data['decimal']!r}."


def _find_window_errors(image: dict[str, Any]) -> Iterator[str]:
    try:
        count = len(parse_windows(image["window"]))
    except ConfigError as fault:
        yield f"{fault.problem} {fault.advice}"
        return
    if count > 1 and count != image["channels"]:
        yield f"data.image.window: {count} windows need as many channels, data.image.channels is {image['channels']}."


def _find_unquoted(where: str, words: Any) -> Iterator[str]:
    """Yield words that YAML has read as true or false."""
    for word in [*words, *(words.values() if isinstance(words, dict) else ())]:
        if str(word) in _BOOLEANS:
            yield f"{where}: {word} is what YAML makes of yes, no, on, off, true and false; put the word into quotes."
