"""A table of laboratory values and diagnoses from a database in the OMOP Common Data Model: one row for each person."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedhealth.data.text_table import TextTable
from fedhealth.errors import ConfigError, DataError
from fedhealth.ingest.sources.database import (
    DatabaseAccess,
    check_database_url,
    format_statement,
    iterate_rows,
    open_database,
)
from fedhealth.ingest.sources.events import ClinicalEvent, check_floor, normalize_time, reduce_events
from fedhealth.ingest.sources.omop_sql import EQUAL, OmopVariable, select_events, select_people
from fedhealth.utils.yaml_model import parse_settings

MIN_PERSONS = 10
_SEXES = {8507: "M", 8532: "F"}
_PERSON_COLUMNS = ("patient", "sex", "birth_year")
_NAME = re.compile(r"[A-Za-z_]\w*")
_ADVICE = "Correct the file; docs/ingest.md describes it."


@dataclass(frozen=True)
class OmopTable:
    """The people of a database: columns `patient`, `sex` (M, F or empty), `birth_year`, and one for each variable.

    Args:
        url: of the database, as in `fedhealth.ingest.sources.database.DatabaseAccess`.
        variables: `fedhealth.ingest.sources.omop_sql.OmopVariable` by the column's name.
        schema: of the model's tables; empty = the database's default.
        identifier: column of `person` with the hospital's Patient ID.
        min_persons: a variable that fewer people have stops the ingest.
        max_refused: share of people without identifier from which on the ingest stops.
        access: the other settings of `DatabaseAccess`.

    """

    url: str
    variables: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    schema: str = ""
    identifier: str = "person_source_value"
    min_persons: int = MIN_PERSONS
    max_refused: float = 0.025
    access: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the settings."""
        check_database_url(self.url)
        self._parse_access()
        for name, each in self._parse_variables().items():
            each.check_values(f"variables.{name}")
        if taken := sorted(set(self.variables) & set(_PERSON_COLUMNS)):
            raise ConfigError(f"variables: {', '.join(taken)} is a column already.", "Choose another name.")
        for name in (self.schema, self.identifier):
            if name and not _NAME.fullmatch(name):
                raise ConfigError(f"{name!r} is not the name of a schema or column.", _ADVICE)
        if self.min_persons < 1:
            raise ConfigError("min_persons must be positive.", "Remove it: the default is 10.")

    @property
    def name(self) -> str:
        """The table's name in messages."""
        return f"OMOP {Path(self.url.rpartition('/')[2]).name or 'database'}"

    def describe_request(self) -> str:
        """Return every statement as SQL."""
        statements = [select_people(self.schema, self.identifier)]
        statements += [select_events(each, self.schema) for each in self._parse_variables().values()]
        return "\n\n".join(f"{format_statement(each, self.url)};" for each in statements)

    def read_table(self) -> TextTable:
        """Run the statements, and make a row of each person."""
        notes: list[str] = []
        with open_database(self._parse_access()) as connection:
            people = [*iterate_rows(connection, select_people(self.schema, self.identifier))]
            known = [row for row in people if str(row[1] or "").strip()]
            self._check_people(len(people), len(known), notes)
            keys = [str(row[0]) for row in known]
            columns = {
                "patient": [str(row[1]).strip() for row in known],
                "sex": [_SEXES.get(row[2], "") for row in known],
                "birth_year": [str(row[3] or "") for row in known],
            }
            for name, variable in self._parse_variables().items():
                columns[name] = self._read_variable(connection, name, variable, keys, notes)
        return TextTable(Path(self.name), "OMOP", columns, list(range(1, len(keys) + 1)), tuple(notes))

    def _read_variable(
        self, connection: Any, name: str, variable: OmopVariable, keys: Sequence[str], notes: list[str]
    ) -> list[str]:
        """Return a variable's cells for the people with these keys."""
        rows = iterate_rows(connection, select_events(variable, self.schema))
        found = reduce_events(_iterate_events(rows, name), variable.period)
        check_floor(f"{self.name}: {name}", sum(key in found.cells for key in keys), self.min_persons)
        notes += [f"{name}: {count} {why}, not used" for why, count in found.set_aside.items()]
        return [found.cells.get(key, "0" if variable.take == "any" else "") for key in keys]

    def _check_people(self, people: int, known: int, notes: list[str]) -> None:
        if people - known > self.max_refused * people:
            raise DataError(
                f"{self.name}: {people - known} of {people} people have no {self.identifier}.",
                "Name the column with the Patient ID: identifier; or raise max_refused.",
            )
        if people > known:
            notes.append(f"{people - known} of {people} people have no {self.identifier} and are left out")

    def _parse_access(self) -> DatabaseAccess:
        return parse_settings({"url": self.url, **self.access}, DatabaseAccess, "access", _ADVICE)

    def _parse_variables(self) -> dict[str, OmopVariable]:
        return {
            str(name): parse_settings(each, OmopVariable, f"variables.{name}", _ADVICE)
            for name, each in self.variables.items()
        }


def _iterate_events(rows: Iterator[tuple[Any, ...]], name: str) -> Iterator[ClinicalEvent]:
    for key, person, day, moment, number, text, word, unit, unit_id, operator in rows:
        try:
            time = normalize_time(moment or day)
        except ValueError:
            raise DataError(
                f"{name}: a date of the database cannot be read.", "Dates must be stored as dates, or as YYYY-MM-DD."
            ) from None
        value = repr(float(number)) if number is not None else str(text or word or "").strip()
        shown = str(unit or "") if number is not None and unit_id else ""
        yield ClinicalEvent(str(person), time, f"{key:>20}", value, shown, operator not in (None, 0, EQUAL))
