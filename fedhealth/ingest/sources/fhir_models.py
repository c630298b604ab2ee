"""The parts of FHIR R4 resources that are read (https://hl7.org/fhir/R4); everything else in them is ignored.

A resource with a modifier extension is refused, as FHIR demands of a reader that does not know it: it may say the
opposite of what the rest says.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

IDENTIFIER_TYPES = "http://terminology.hl7.org/CodeSystem/v2-0203"
"""Code system of identifier types: `MR` a hospital's Patient ID, `ACSN` an accession number."""

_Text = Annotated[str, Field(max_length=50_000_000)]


class FhirElement(BaseModel):
    """Any part of a resource."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore", frozen=True)


class Coding(FhirElement):
    """One code."""

    system: str = ""
    code: str = ""


class CodeableConcept(FhirElement):
    """The same in several code systems."""

    coding: list[Coding] = []
    text: str = ""

    def has_code(self, system: str, code: str) -> bool:
        """Return whether a code is among its codings; an empty system matches each."""
        return any(each.code == code and system in ("", each.system) for each in self.coding)


class FhirIdentifier(FhirElement):
    """An identifier in a system."""

    system: str = ""
    value: str = ""
    type: CodeableConcept = CodeableConcept()


class Reference(FhirElement):
    """A reference to another resource, by its place or by an identifier."""

    reference: str = ""
    identifier: FhirIdentifier | None = None

    def get_key(self, kind: str) -> str:
        """Return the id of the resource of this kind that is meant; empty if it is another's."""
        parts = self.reference.split("/_history/")[0].split("/")
        return parts[-1] if len(parts) >= 2 and parts[-2] == kind else ""


class FhirQuantity(FhirElement):
    """A number with a unit."""

    value: float | None = None
    comparator: str = ""
    unit: str = ""
    system: str = ""
    code: str = ""


class HumanName(FhirElement):
    """A person's name."""

    family: str = ""
    given: list[str] = []


class Attachment(FhirElement):
    """A text or document, or where it is."""

    content_type: str = ""
    data: _Text = ""
    url: str = ""


class Narrative(FhirElement):
    """A text in XHTML."""

    div: _Text = ""


class Resource(FhirElement):
    """What all resources have."""

    resource_type: str
    id: str = ""
    text: Narrative | None = None

    @model_validator(mode="before")
    @classmethod
    def refuse_modifiers(cls, content: Any) -> Any:
        """Refuse what may change the meaning of a resource in an unknown way."""
        if isinstance(content, dict) and (content.get("modifierExtension") or content.get("implicitRules")):
            raise ValueError("a modifier extension")
        return content


class PatientLink(FhirElement):
    """A link to another record of the same person."""

    other: Reference
    type: str


class Patient(Resource):
    """A person."""

    resource_type: Literal["Patient"]
    identifier: list[FhirIdentifier] = []
    name: list[HumanName] = []
    gender: str = ""
    birth_date: str = ""
    link: list[PatientLink] = []


class ObservationComponent(FhirElement):
    """A part of an observation, such as the systolic blood pressure."""

    code: CodeableConcept
    value_quantity: FhirQuantity | None = None
    value_codeable_concept: CodeableConcept | None = None
    value_string: str | None = None
    value_integer: int | None = None
    value_boolean: bool | None = None


class Observation(Resource, ObservationComponent):
    """A measurement, or another statement about a patient."""

    resource_type: Literal["Observation"]
    status: str
    subject: Reference = Reference()
    effective_date_time: str = ""
    effective_instant: str = ""
    effective_period: dict[str, Any] = {}
    component: list[ObservationComponent] = []


class Condition(Resource):
    """A diagnosis."""

    resource_type: Literal["Condition"]
    code: CodeableConcept = CodeableConcept()
    subject: Reference = Reference()
    verification_status: CodeableConcept = CodeableConcept()
    onset_date_time: str = ""
    recorded_date: str = ""


class DiagnosticReport(Resource):
    """A report."""

    resource_type: Literal["DiagnosticReport"]
    status: str
    code: CodeableConcept = CodeableConcept()
    identifier: list[FhirIdentifier] = []
    subject: Reference = Reference()
    based_on: list[Reference] = []
    imaging_study: list[Reference] = []
    effective_date_time: str = ""
    issued: str = ""
    conclusion: str = ""
    presented_form: list[Attachment] = []


class DocumentContent(FhirElement):
    """One form of a document."""

    attachment: Attachment


class DocumentContext(FhirElement):
    """What a document belongs to."""

    related: list[Reference] = []


class DocumentReference(Resource):
    """A document."""

    resource_type: Literal["DocumentReference"]
    status: str
    doc_status: str = ""
    type: CodeableConcept = CodeableConcept()
    identifier: list[FhirIdentifier] = []
    subject: Reference = Reference()
    date: str = ""
    content: list[DocumentContent] = []
    context: DocumentContext = DocumentContext()


class ImagingStudy(Resource):
    """A study of images."""

    resource_type: Literal["ImagingStudy"]
    status: str
    identifier: list[FhirIdentifier] = []
    subject: Reference = Reference()


class BundleLink(FhirElement):
    """A link of a page, to the next for example."""

    relation: str
    url: str


class SearchInfo(FhirElement):
    """Why an entry is in a page."""

    mode: str = "match"


class BundleEntry(FhirElement):
    """One result of a page."""

    resource: dict[str, Any] = {}
    search: SearchInfo = SearchInfo()


class Bundle(FhirElement):
    """One page of a search's results."""

    resource_type: Literal["Bundle"]
    link: list[BundleLink] = []
    entry: list[BundleEntry] = []


MODELS: dict[str, type[Resource]] = {
    "Patient": Patient,
    "Observation": Observation,
    "Condition": Condition,
    "DiagnosticReport": DiagnosticReport,
    "DocumentReference": DocumentReference,
    "ImagingStudy": ImagingStudy,
}
