"""The people of a FHIR server or export: which Patient ID, sex, year of birth and name belong to which resource."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from fedhealth.ingest.sources.fhir_models import IDENTIFIER_TYPES, Patient, Reference
from fedhealth.ingest.sources.fhir_reader import ReadCounts

NO_IDENTIFIER = "a Patient without, or with several, of the identifiers asked for"
_SEXES = {"male": "M", "female": "F"}
_MOST_LINKS = 10  # from a record to the one that replaced it


class FhirPerson(NamedTuple):
    """What is known of a person.

    Attributes:
        identifier: the hospital's Patient ID.
        sex: M, F or empty.
        birth_year: empty if it is unknown.
        family: names.
        given: names.

    """

    identifier: str
    sex: str = ""
    birth_year: str = ""
    family: str = ""
    given: str = ""


@dataclass(frozen=True)
class FhirPeople:
    """People by the ids of their Patient resources.

    Attributes:
        people: by id; each person once.
        replaced: the id of the current record by that of an earlier one.
        keys: id by the hospital's Patient ID.

    """

    people: Mapping[str, FhirPerson]
    replaced: Mapping[str, str]
    keys: Mapping[str, str]

    def find_key(self, subject: Reference) -> str:
        """Return the id of the person whom a reference means; empty if there is none."""
        key = subject.get_key("Patient")
        for _ in range(_MOST_LINKS):
            key = self.replaced.get(key, key)
        if not key and subject.identifier:
            key = self.keys.get(subject.identifier.value.strip(), "")
        return key if key in self.people else ""


def collect_people(patients: Iterable[Patient], system: str, counts: ReadCounts) -> FhirPeople:
    """Index all people; a record that another one replaced is not a person.

    Args:
        patients: all Patient resources.
        system: of the identifier that is the Patient ID in the images' headers; empty = the one of type MR, or the only
            one.
        counts: of what cannot be used.

    """
    people, replaced = dict[str, FhirPerson](), dict[str, str]()
    for patient in patients:
        newer = [each.other.get_key("Patient") for each in patient.link if each.type == "replaced-by"]
        if newer and newer[0]:
            replaced[patient.id] = newer[0]
            continue
        identifier = _choose_identifier(patient, system)
        if not (identifier and patient.id):
            counts.refused[NO_IDENTIFIER] += 1
            continue
        family = " ".join(each.family for each in patient.name)
        given = " ".join(part for each in patient.name for part in each.given)
        year = patient.birth_date[:4]
        people[patient.id] = FhirPerson(identifier, _SEXES.get(patient.gender, ""), year, family, given)
    return FhirPeople(people, replaced, {each.identifier: key for key, each in people.items()})


def _choose_identifier(patient: Patient, system: str) -> str:
    """Return the Patient ID; empty if there is none, or if it cannot be told which it is."""
    if system:
        found = {each.value.strip() for each in patient.identifier if each.system == system}
    else:
        typed = {each.value.strip() for each in patient.identifier if each.type.has_code(IDENTIFIER_TYPES, "MR")}
        found = typed or {each.value.strip() for each in patient.identifier}
    found.discard("")
    return found.pop() if len(found) == 1 else ""
