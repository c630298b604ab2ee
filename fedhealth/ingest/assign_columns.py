"""Guess which column of a hospital's tables holds what the consortium names; what is unclear is left to a person."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from fedhealth.config.schema import ColumnKind, DataConfig, TaskKind
from fedhealth.data.column_profile import ColumnGuess, ColumnProfile, profile_column
from fedhealth.data.text_table import TextTable
from fedhealth.ingest.match_columns import KeyMatch
from fedhealth.ingest.settings import UNDECIDED

_HEADING = re.compile(r"(?P<name>[^\[(]*[^\[(\s])\s*(?:[\[(](?P<unit>[^\])]*)[\])])?\s*")


@dataclass(frozen=True)
class TableProposal:
    """What is proposed for one table.

    Attributes:
        table: as it was read.
        keys: by which it can be joined.
        profiles: of its columns, by name.
        columns: its column by the consortium's name.
        units: of its numbers by the consortium's name, where they are not the consortium's.
        words: by the consortium's name, the consortium's word (or UNDECIDED) by the table's.
        names: its columns with people's names.
        decimal: how it writes numbers.
        notes: what could not be decided.

    """

    table: TextTable
    keys: tuple[KeyMatch, ...]
    profiles: Mapping[str, ColumnProfile]
    columns: Mapping[str, str]
    units: Mapping[str, str]
    words: Mapping[str, Mapping[str, str]]
    names: tuple[str, ...]
    decimal: str
    notes: tuple[str, ...]


def propose_table(table: TextTable, keys: Sequence[KeyMatch], data: DataConfig) -> TableProposal:
    """Guess what a table's columns hold."""
    profiles = {name: profile_column(name, cells) for name, cells in table.columns.items()}
    free = [each for name, each in profiles.items() if name not in {match.column for match in keys}]
    columns = _assign_by_name(free, data) | _assign_text(free) | _assign_label(free, data)
    units, words, notes = dict[str, str](), dict[str, Mapping[str, str]](), list[str]()
    for name, column in columns.items():
        if (unit := _find_unit(name, profiles[column], data)) is not None:
            units[name] = unit
        if mapped := _map_words(name, profiles[column], data):
            words[name] = mapped
        notes += _find_unclear(name, profiles[column], units.get(name, ""), mapped, data)
    marks = {profiles[column].decimal for name, column in columns.items() if name in data.tabular} - {""}
    people = tuple(each.name for each in free if each.guess is ColumnGuess.person)
    decimal = "," if marks == {","} else "."
    return TableProposal(table, tuple(keys), profiles, columns, units, words, people, decimal, tuple(notes))


def split_heading(heading: str) -> tuple[str, str]:
    """Return the name and the unit of a heading such as `CRP [mg/l]`."""
    match = _HEADING.fullmatch(heading)
    return (match["name"], match["unit"] or "") if match else (heading, "")


def _assign_by_name(profiles: Sequence[ColumnProfile], data: DataConfig) -> dict[str, str]:
    named = {split_heading(each.name)[0].casefold(): each.name for each in profiles}
    wanted = ["split", *data.columns.labels, *data.tabular]
    return {name: named[name.casefold()] for name in wanted if name.casefold() in named}


def _assign_text(profiles: Sequence[ColumnProfile]) -> dict[str, str]:
    reports = [each.name for each in profiles if each.guess is ColumnGuess.report]
    return {"text": reports[0]} if len(reports) == 1 else {}


def _assign_label(profiles: Sequence[ColumnProfile], data: DataConfig) -> dict[str, str]:
    """Return the only column whose words are the classes; with two classes, the only column with two words."""
    if len(data.columns.labels) != 1:
        return {}
    (label,), taken = data.columns.labels, _assign_by_name(profiles, data)
    if label in taken:
        return {}
    words = [each for each in profiles if each.guess is ColumnGuess.words and each.name not in taken.values()]
    known = {word.casefold() for word in (*data.task.classes, *data.task.words)}
    exact = [each.name for each in words if {level.casefold() for level in each.levels} <= known]
    alike = [each.name for each in words if each.distinct == len(data.task.classes)]
    for found in (exact, alike):
        if len(found) == 1:
            return {label: found[0]}
    return {}


def _find_unit(name: str, profile: ColumnProfile, data: DataConfig) -> str | None:
    """Return the unit in the heading if it is another than the consortium's; None if there is nothing to declare."""
    unit = split_heading(profile.name)[1]
    column = data.tabular.get(name)
    if column is None or column.kind is not ColumnKind.numeric or not unit or unit == column.unit:
        return None
    return unit if unit in column.conversions else UNDECIDED


def _map_words(name: str, profile: ColumnProfile, data: DataConfig) -> dict[str, str]:
    """Return the table's words with the consortium's; UNDECIDED where they differ."""
    known = _list_words(name, data)
    if not known or profile.guess not in (ColumnGuess.words, ColumnGuess.other) or not profile.levels:
        return {}
    folded = {word.casefold(): word for word in known}
    unknown = [level for level in profile.levels if level not in known]
    return {level: folded.get(level.casefold(), UNDECIDED) for level in unknown}


def _list_words(name: str, data: DataConfig) -> set[str]:
    if name in data.columns.labels:
        classes = ["0", "1"] if data.task.kind is TaskKind.multilabel else data.task.classes
        return {*classes, *(str(index) for index in range(len(classes))), *data.task.words}
    column = data.tabular.get(name)
    if column is None or column.kind is ColumnKind.numeric:
        return set()
    return {*column.levels, *column.words, *column.missing_codes}


def _find_unclear(
    name: str, profile: ColumnProfile, unit: str, words: Mapping[str, str], data: DataConfig
) -> Iterator[str]:
    column = data.tabular.get(name)
    if unit == UNDECIDED:
        known = ", ".join(filter(None, (column.unit, *column.conversions))) if column else ""
        yield f"{name}: the heading says {split_heading(profile.name)[1]!r}; the consortium knows {known or 'no unit'}"
    if UNDECIDED in words.values():
        yield f"{name}: which of {', '.join(sorted(_list_words(name, data)))} do the words of the table mean?"
    if column is not None and column.kind is ColumnKind.numeric and profile.guess is not ColumnGuess.number:
        yield f"{name}: the column does not look like numbers"
