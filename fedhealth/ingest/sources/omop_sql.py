"""Statements that read variables from a database in the OMOP Common Data Model (https://ohdsi.github.io/CommonDataModel).

Versions 5.3 and 5.4 have the same columns here. Every statement is a SELECT; concept sets are lists of numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fedhealth.errors import ConfigError
from fedhealth.ingest.sources.events import EventPeriod

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Select

EQUAL = 4172703
"""The concept of the operator `=`; other operators say that a value is a bound."""


@dataclass(frozen=True)
class _Domain:
    """Where the events of a domain are.

    Attributes:
        table: of the model.
        key: its column with the event's id.
        name: beginning of other columns' names.
        day: its column with the date; the column with the time has the same name and `time`.
        has_value: whether events have values.
        further: more columns with values.

    """

    table: str
    key: str
    name: str
    day: str
    has_value: bool = False
    further: tuple[str, ...] = ()


DOMAINS = {
    "measurement": _Domain(
        "measurement", "measurement_id", "measurement", "measurement_date", True, ("operator_concept_id",)
    ),
    "observation": _Domain(
        "observation", "observation_id", "observation", "observation_date", True, ("value_as_string",)
    ),
    "condition": _Domain("condition_occurrence", "condition_occurrence_id", "condition", "condition_start_date"),
    "drug": _Domain("drug_exposure", "drug_exposure_id", "drug", "drug_exposure_start_date"),
    "procedure": _Domain("procedure_occurrence", "procedure_occurrence_id", "procedure", "procedure_date"),
}


@dataclass(frozen=True)
class OmopVariable:
    """One variable: a set of concepts in one domain.

    Attributes:
        domain: of `DOMAINS`.
        concepts: concept ids of the set.
        descendants: whether their descendants in the vocabulary belong to it.
        without: concept ids that do not belong to it; nor do their descendants, if `descendants`.
        take: as in `EventPeriod`.
        since: as in `EventPeriod`.
        until: as in `EventPeriod`.

    """

    domain: str
    concepts: tuple[int, ...]
    descendants: bool = False
    without: tuple[int, ...] = ()
    take: str = "last"
    since: str = ""
    until: str = ""

    @property
    def period(self) -> EventPeriod:
        """From which events a cell is made."""
        return EventPeriod(self.take, self.since, self.until)

    def check_values(self, where: str) -> None:
        """Check what was declared.

        Raises:
            ConfigError: with what is possible.

        """
        advice = "Correct the file; docs/ingest.md describes it."
        if self.domain not in DOMAINS:
            raise ConfigError(f"{where}.domain: must be one of {', '.join(DOMAINS)}.", advice)
        if not self.concepts:
            raise ConfigError(f"{where}.concepts: is empty.", advice)
        if not DOMAINS[self.domain].has_value and self.take != "any":
            raise ConfigError(f"{where}.take: a {self.domain} has no value: write take: any.", advice)
        self.period.check_values(where)


def select_people(schema: str, identifier: str) -> Select[Any]:
    """Return a statement for each person's key, identifier, sex and year of birth."""
    from sqlalchemy import select

    person = _name_table("person", schema, "person_id", identifier, "gender_concept_id", "year_of_birth")
    return select(
        person.c.person_id.label("person"),
        person.c[identifier].label("identifier"),
        person.c.gender_concept_id.label("gender"),
        person.c.year_of_birth.label("born"),
    )


def select_events(variable: OmopVariable, schema: str) -> Select[Any]:
    """Return a statement for a variable's events: key, person, day and time, and the columns of `_join_values`."""
    from sqlalchemy import select

    domain = DOMAINS[variable.domain]
    concept, moment = f"{domain.name}_concept_id", f"{domain.day}time"
    valued = ["value_as_number", "value_as_concept_id", "unit_concept_id"] if domain.has_value else []
    event = _name_table(
        domain.table, schema, domain.key, "person_id", domain.day, moment, concept, *valued, *domain.further
    )
    place, values = _join_values(event, domain, schema)
    chosen = [event.c[domain.key], event.c.person_id, event.c[domain.day], event.c[moment], *values]
    wanted = _match_concepts(event.c[concept], variable.concepts, variable.descendants, schema)
    statement = select(*chosen).select_from(place).where(wanted)
    if variable.without:
        statement = statement.where(~_match_concepts(event.c[concept], variable.without, variable.descendants, schema))
    return statement


def _join_values(event: Any, domain: _Domain, schema: str) -> tuple[Any, list[Any]]:
    """Return the events joined with names, and the columns for number, text, word, unit, the unit's id, operator."""
    from sqlalchemy import literal_column

    nothing: Any = literal_column("NULL")
    if not domain.has_value:
        return event, [nothing] * 6
    unit = _name_table("concept", schema, "concept_id", "concept_code").alias("unit")
    word = _name_table("concept", schema, "concept_id", "concept_name").alias("word")
    place = event.outerjoin(unit, unit.c.concept_id == event.c.unit_concept_id)
    is_word = (word.c.concept_id == event.c.value_as_concept_id) & (event.c.value_as_concept_id != 0)
    text, operator = (
        event.c[name] if name in domain.further else nothing for name in ("value_as_string", "operator_concept_id")
    )
    names = [word.c.concept_name, unit.c.concept_code, event.c.unit_concept_id]
    return place.outerjoin(word, is_word), [event.c.value_as_number, text, *names, operator]


def _match_concepts(
    column: ColumnElement[Any], concepts: Sequence[int], descendants: bool, schema: str
) -> ColumnElement[bool]:
    from sqlalchemy import or_, select

    direct = column.in_(sorted(concepts))
    if not descendants:
        return direct
    ancestor = _name_table("concept_ancestor", schema, "ancestor_concept_id", "descendant_concept_id")
    below = select(ancestor.c.descendant_concept_id).where(ancestor.c.ancestor_concept_id.in_(sorted(concepts)))
    return or_(direct, column.in_(below))


def _name_table(name: str, schema: str, *columns: str) -> Any:
    from sqlalchemy import column, table

    return table(name, *(column(each) for each in columns), schema=schema or None)
