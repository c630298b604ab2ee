"""Values and diagnoses in FHIR Observations and Conditions, as events of people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from fedhealth.errors import ConfigError
from fedhealth.ingest.sources.events import ClinicalEvent, EventPeriod, normalize_time
from fedhealth.ingest.sources.fhir_models import (
    CodeableConcept,
    Condition,
    FhirQuantity,
    Observation,
    ObservationComponent,
)
from fedhealth.ingest.sources.fhir_people import FhirPeople

_FINAL = ("final", "amended", "corrected")
_CONFIRMED = ("confirmed", "")
_ADVICE = "Correct the file; docs/ingest.md describes it."


@dataclass(frozen=True)
class FhirVariable:
    """One variable: a set of codes in one kind of resource.

    Attributes:
        resource: Observation or Condition.
        codes: `SYSTEM|CODE`, such as `http://loinc.org|1988-5`.
        component: whether the codes are those of a component, such as the systolic blood pressure.
        query: further parameters of the search.
        take: as in `EventPeriod`.
        since: as in `EventPeriod`.
        until: as in `EventPeriod`.

    """

    resource: str
    codes: tuple[str, ...]
    component: bool = False
    query: dict[str, str] = field(default_factory=dict)
    take: str = "last"
    since: str = ""
    until: str = ""

    @property
    def period(self) -> EventPeriod:
        """From which events a cell is made."""
        return EventPeriod(self.take, self.since, self.until)

    @property
    def search(self) -> dict[str, str]:
        """Parameters of the search."""
        return {"combo-code" if self.component else "code": ",".join(self.codes), **self.query}

    def check_values(self, where: str) -> None:
        """Check what was declared.

        Raises:
            ConfigError: with what is possible.

        """
        if self.resource not in ("Observation", "Condition"):
            raise ConfigError(f"{where}.resource: must be Observation or Condition.", _ADVICE)
        if not self.codes or not all(all(each.partition("|")[::2]) for each in self.codes):
            raise ConfigError(f"{where}.codes: write SYSTEM|CODE, such as http://loinc.org|1988-5.", _ADVICE)
        if self.resource == "Condition" and self.take != "any":
            raise ConfigError(f"{where}.take: a Condition has no value: write take: any.", _ADVICE)
        self.period.check_values(where)

    def matches(self, concept: CodeableConcept) -> bool:
        """Return whether one of the codes is meant."""
        return any(concept.has_code(*each.partition("|")[::2]) for each in self.codes)


def iterate_observations(
    resources: Iterable[Observation], variable: FhirVariable, people: FhirPeople, aside: Counter[str]
) -> Iterator[ClinicalEvent]:
    """Yield the events of a variable; count what is set aside."""
    for resource in resources:
        parts = resource.component if variable.component else [resource]
        found = [part for part in parts if variable.matches(part.code)]
        person = people.find_key(resource.subject)
        if not found:
            continue
        if not person:
            aside["of other people"] += 1
        elif resource.status not in _FINAL:
            aside["not final"] += 1
        else:
            start = str(resource.effective_period.get("start", ""))
            time = _read_time(resource.effective_date_time or resource.effective_instant or start)
            for part in found:
                value, unit, is_bound = _read_value(part)
                yield ClinicalEvent(person, time, resource.id, value, unit, is_bound)


def iterate_conditions(
    resources: Iterable[Condition], variable: FhirVariable, people: FhirPeople, aside: Counter[str]
) -> Iterator[ClinicalEvent]:
    """Yield the events of a variable; count what is set aside."""
    for resource in resources:
        if not variable.matches(resource.code):
            continue
        person = people.find_key(resource.subject)
        status = next((each.code for each in resource.verification_status.coding), "")
        if not person:
            aside["of other people"] += 1
        elif status not in _CONFIRMED:
            aside["not confirmed"] += 1
        else:
            yield ClinicalEvent(person, _read_time(resource.onset_date_time or resource.recorded_date), resource.id)


def _read_time(text: str) -> str:
    try:
        return normalize_time(text)
    except ValueError:
        return ""


def _read_value(part: ObservationComponent) -> tuple[str, str, bool]:
    """Return value, unit, and whether the value is only a bound; an empty value if there is none."""
    quantity: FhirQuantity | None = part.value_quantity
    if quantity is not None:
        number = "" if quantity.value is None else repr(quantity.value)
        return number, quantity.code or quantity.unit, bool(quantity.comparator)
    concept = part.value_codeable_concept
    word = next((each.code for each in concept.coding if each.code), concept.text) if concept else ""
    boolean = None if part.value_boolean is None else int(part.value_boolean)
    plain: list[Any] = [part.value_integer, boolean, part.value_string, word]
    return next((str(each).strip() for each in plain if each is not None and each != ""), ""), "", False
