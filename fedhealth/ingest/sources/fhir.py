"""Tables from a FHIR R4 server, or from the NDJSON files of a Bulk Data export: people with values, and reports."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedhealth.data.text_table import TextTable
from fedhealth.errors import ConfigError
from fedhealth.ingest.sources.events import VariableCells, check_floor, reduce_events
from fedhealth.ingest.sources.fhir_events import FhirVariable, iterate_conditions, iterate_observations
from fedhealth.ingest.sources.fhir_models import (
    IDENTIFIER_TYPES,
    Condition,
    DiagnosticReport,
    DocumentReference,
    FhirIdentifier,
    ImagingStudy,
    Observation,
)
from fedhealth.ingest.sources.fhir_people import FhirPeople
from fedhealth.ingest.sources.fhir_reader import FhirFolder, FhirServer, ReadCounts, parse_resources
from fedhealth.ingest.sources.fhir_table import FhirTable
from fedhealth.ingest.sources.fhir_text import extract_text
from fedhealth.utils.yaml_model import parse_settings

MIN_PERSONS = 10
_PERSON_COLUMNS = ("patient", "sex", "birth_year")
_REPORT_COLUMNS = ("patient", "study", "accession", "date", "text", "family", "given")
_UNUSABLE = ("entered-in-error", "cancelled", "superseded")
_STUDY_UID = "urn:dicom:uid"
_ADVICE = "Correct the file; docs/ingest.md describes it."


@dataclass(frozen=True)
class FhirPatients(FhirTable):
    """A row for each person: `patient`, `sex` (M, F or empty), `birth_year`, and a column for each variable.

    Args:
        variables: `fedhealth.ingest.sources.fhir_events.FhirVariable` by the column's name.
        min_persons: a variable that fewer people have stops the ingest.

    """

    variables: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    min_persons: int = MIN_PERSONS

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        for name, each in self._parse_variables().items():
            each.check_values(f"variables.{name}")
        if taken := sorted(set(self.variables) & set(_PERSON_COLUMNS)):
            raise ConfigError(f"variables: {', '.join(taken)} is a column already.", "Choose another name.")
        if self.min_persons < 1:
            raise ConfigError("min_persons must be positive.", "Remove it: the default is 10.")

    def describe_request(self) -> str:
        """Return the searches."""
        searches = [(each.resource, each.search) for each in self._parse_variables().values()]
        return self.format_searches(("Patient", self.patients), *searches)

    def read_table(self) -> TextTable:
        """Read all people and their values."""
        counts, notes = ReadCounts(), list[str]()
        with self.open_reader() as reader:
            people = self.read_people(reader, counts)
            keys = list(people.people)
            columns = {
                "patient": [people.people[key].identifier for key in keys],
                "sex": [people.people[key].sex for key in keys],
                "birth_year": [people.people[key].birth_year for key in keys],
            }
            for name, variable in self._parse_variables().items():
                found = self._read_variable(reader, variable, people, counts)
                counts.check_share(self.name, self.max_refused)
                check_floor(f"{self.name}: {name}", len(found.cells), self.min_persons)
                columns[name] = [found.cells.get(key, "0" if variable.take == "any" else "") for key in keys]
                notes += [f"{name}: {count} {why}, not used" for why, count in found.set_aside.items()]
        counts.check_share(self.name, self.max_refused)
        lines = list(range(1, len(keys) + 1))
        return TextTable(Path(self.name), "FHIR", columns, lines, (*counts.list_notes(), *notes))

    def _read_variable(
        self, reader: FhirServer | FhirFolder, variable: FhirVariable, people: FhirPeople, counts: ReadCounts
    ) -> VariableCells:
        contents, aside = reader.iterate_resources(variable.resource, variable.search), Counter[str]()
        if variable.resource == "Observation":
            events = iterate_observations(parse_resources(contents, Observation, counts), variable, people, aside)
        else:
            events = iterate_conditions(parse_resources(contents, Condition, counts), variable, people, aside)
        found = reduce_events(events, variable.period)
        found.set_aside.update(aside)
        return found

    def _parse_variables(self) -> dict[str, FhirVariable]:
        return {
            str(name): parse_settings(each, FhirVariable, f"variables.{name}", _ADVICE)
            for name, each in self.variables.items()
        }


@dataclass(frozen=True)
class FhirReports(FhirTable):
    """A row for each report and study: `patient`, `study`, `accession`, `date`, `text`, `family` and `given` (names).

    Args:
        resource: DiagnosticReport or DocumentReference.
        query: search parameters for reports.

    """

    resource: str = "DiagnosticReport"
    query: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        if self.resource not in ("DiagnosticReport", "DocumentReference"):
            raise ConfigError("resource: must be DiagnosticReport or DocumentReference.", _ADVICE)

    def describe_request(self) -> str:
        """Return the searches."""
        studies = ("ImagingStudy", {"_id": "..."})
        return self.format_searches(("Patient", self.patients), (self.resource, self.query), studies)

    def read_table(self) -> TextTable:
        """Read all reports of the people."""
        counts, notes, rows = ReadCounts(), Counter[str](), list[tuple[str, ...]]()
        with self.open_reader() as reader:
            people = self.read_people(reader, counts)
            reports = []
            for report in self._parse_reports(reader, counts):
                if why := _find_obstacle(report, people):
                    notes[why] += 1
                else:
                    reports.append(report)
            keys = sorted({key for report in reports for key in _list_studies(report)})
            found = parse_resources(reader.iterate_by_id("ImagingStudy", keys), ImagingStudy, counts)
            studies = {study.id: study for study in found}
            for report in reports:
                text, why = extract_text(report, reader.read_binary)
                if why:
                    counts.refused[f"a {self.resource}: {why}"] += 1
                    continue
                rows += _make_rows(report, text, studies, people)
        counts.check_share(self.name, self.max_refused)
        columns = {name: [row[place] for row in rows] for place, name in enumerate(_REPORT_COLUMNS)}
        listed = [f"{count} report(s) are left out: {why}" for why, count in notes.most_common()]
        lines = list(range(1, len(rows) + 1))
        return TextTable(Path(self.name), "FHIR", columns, lines, (*counts.list_notes(), *listed))

    def _parse_reports(
        self, reader: FhirServer | FhirFolder, counts: ReadCounts
    ) -> Iterator[DiagnosticReport | DocumentReference]:
        contents = reader.iterate_resources(self.resource, self.query)
        if self.resource == "DiagnosticReport":
            yield from parse_resources(contents, DiagnosticReport, counts)
        else:
            yield from parse_resources(contents, DocumentReference, counts)


def _find_obstacle(report: DiagnosticReport | DocumentReference, people: FhirPeople) -> str:
    """Return why a report is left out; empty if it is not."""
    states = (report.status, getattr(report, "doc_status", ""))
    if found := next((each for each in states if each in _UNUSABLE), ""):
        return found
    return "" if people.find_key(report.subject) else "of other people"


def _list_studies(report: DiagnosticReport | DocumentReference) -> list[str]:
    """Return the ids of a report's imaging studies."""
    references = report.imaging_study if isinstance(report, DiagnosticReport) else report.context.related
    return list(dict.fromkeys(filter(None, (each.get_key("ImagingStudy") for each in references))))


def _make_rows(
    report: DiagnosticReport | DocumentReference,
    text: str,
    studies: Mapping[str, ImagingStudy],
    people: FhirPeople,
) -> Iterator[tuple[str, ...]]:
    """Yield a row for each imaging study of a report, or one if it names none."""
    person = people.people[people.find_key(report.subject)]
    own = [*report.identifier]
    if isinstance(report, DiagnosticReport):
        own += [each.identifier for each in report.based_on if each.identifier]
        day = report.effective_date_time or report.issued
    else:
        day = report.date
    linked = [studies[key] for key in _list_studies(report) if key in studies]
    for study in linked or (None,):
        uid = _find_uid(study.identifier) if study else ""
        accession = _find_accession([*(study.identifier if study else []), *own])
        yield person.identifier, uid, accession, day, text, person.family, person.given


def _find_uid(identifiers: list[FhirIdentifier]) -> str:
    """Return the Study Instance UID (https://hl7.org/fhir/R4/imagingstudy.html#notes)."""
    return next((each.value.removeprefix("urn:oid:") for each in identifiers if each.system == _STUDY_UID), "")


def _find_accession(identifiers: list[FhirIdentifier]) -> str:
    return next((each.value for each in identifiers if each.type.has_code(IDENTIFIER_TYPES, "ACSN")), "")
