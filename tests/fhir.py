"""Synthetic patients as FHIR R4 resources, and a small server of them with search and paging."""

import base64
import json
from urllib.parse import parse_qs, quote, urlsplit

from tests.stub_server import Stub

LOINC, ICD, MR = "http://loinc.org", "http://hl7.org/fhir/sid/icd-10", "http://hospital.example/patients"
TYPES = "http://terminology.hl7.org/CodeSystem/v2-0203"
UCUM = "http://unitsofmeasure.org"
FAMILIES = ("Müller", "Schmidt", "Okafor", "Larsen")


def concept(system, code):
    return {"coding": [{"system": system, "code": code}]}


def make_patient(number, identifier, **further):
    return {
        "resourceType": "Patient",
        "id": f"p{number}",
        "identifier": [{"system": MR, "value": identifier, "type": concept(TYPES, "MR")}],
        "name": [{"family": FAMILIES[number % 4], "given": ["Anna", "Maria"]}],
        "gender": "female" if number % 3 == 0 else "male",
        "birthDate": f"{1940 + number % 50}-03-12",
        **further,
    }


def make_observation(number, place, value, day, unit="mg/l", **further):
    return {
        "resourceType": "Observation",
        "id": f"o{number}-{place}",
        "status": "final",
        "code": concept(LOINC, "1988-5"),
        "subject": {"reference": f"Patient/p{number}"},
        "effectiveDateTime": day,
        "valueQuantity": {"value": value, "unit": unit, "system": UCUM, "code": unit},
        **further,
    }


def make_condition(number, code="J18.9", **further):
    return {
        "resourceType": "Condition",
        "id": f"c{number}",
        "verificationStatus": concept("http://terminology.hl7.org/CodeSystem/condition-ver-status", "confirmed"),
        "code": concept(ICD, code),
        "subject": {"reference": f"Patient/p{number}"},
        "onsetDateTime": "2023-05-01",
        **further,
    }


def make_study(number, uid):
    return {
        "resourceType": "ImagingStudy",
        "id": f"s{number}",
        "status": "available",
        "identifier": [
            {"system": "urn:dicom:uid", "value": f"urn:oid:{uid}"},
            {"value": f"A{number}", "type": concept(TYPES, "ACSN")},
        ],
        "subject": {"reference": f"Patient/p{number}"},
    }


def make_report(number, written, **further):
    return {
        "resourceType": "DiagnosticReport",
        "id": f"r{number}",
        "status": "final",
        "code": concept(LOINC, "18748-4"),
        "subject": {"reference": f"Patient/p{number}"},
        "effectiveDateTime": "2023-05-01T09:00:00Z",
        "imagingStudy": [{"reference": f"ImagingStudy/s{number}"}],
        "presentedForm": [
            {"contentType": "text/plain; charset=utf-8", "data": base64.b64encode(written.encode()).decode()}
        ],
        **further,
    }


def make_hospital(patients, studies=None):
    """Return the resources of a hospital: every second patient has pneumonia and a high value.

    Args:
        patients: Patient IDs.
        studies: Study Instance UID of each patient; None for synthetic ones.

    """
    found = []
    for number, identifier in enumerate(patients):
        ill = number % 2
        found += [
            make_patient(number, identifier),
            make_observation(number, 0, 5.0, "2023-05-01T07:00:00+02:00"),
            make_observation(number, 1, 20.5 + 60 * ill, "2023-05-02"),
            make_study(number, studies[number] if studies else f"1.2.{number}"),
            make_report(number, f"Befund: {FAMILIES[number % 4]}, heute {'schlechter' if ill else 'besser'}."),
        ]
        found += [make_condition(number)] * ill
    return found


class FhirStub(Stub):
    """A server of resources: GET KIND?code=...&_id=...&_count=...; pages link to the next one."""

    def __init__(self, resources, check=None, answer_form=None):
        self.resources, self.base = resources, ""
        self.check = check or (lambda headers: True)
        super().__init__(self._answer, answer_form)

    def _answer(self, path, headers):
        if not self.check(headers):
            return 401, {}, b""
        parts = urlsplit(path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        kind = parts.path.rpartition("/")[2]
        chosen = [each for each in self.resources if each["resourceType"] == kind and self._matches(each, query)]
        start, count = int(query.get("_offset", 0)), int(query["_count"])
        further = start + count < len(chosen)
        kept = "&".join(f"{name}={quote(value)}" for name, value in query.items() if name != "_offset")
        page = {
            "resourceType": "Bundle",
            "type": "searchset",
            "link": [{"relation": "next", "url": f"{self.url}/{kind}?{kept}&_offset={start + count}"}] * further,
            "entry": [{"resource": each, "search": {"mode": "match"}} for each in chosen[start : start + count]],
        }
        return 200, {"Content-Type": "application/fhir+json"}, json.dumps(page).encode()

    @staticmethod
    def _matches(resource, query):
        if "_id" in query and resource["id"] not in query["_id"].split(","):
            return False
        codes = {f"{each['system']}|{each['code']}" for each in resource.get("code", {}).get("coding", [])}
        return "code" not in query or bool(codes & set(query["code"].split(",")))


def write_export(folder, resources):
    """Write the NDJSON files of a Bulk Data export, one for each kind."""
    folder.mkdir()
    for kind in sorted({each["resourceType"] for each in resources}):
        lines = [json.dumps(each) for each in resources if each["resourceType"] == kind]
        (folder / f"{kind}.000.ndjson").write_text("\n".join(lines) + "\n", "utf-8")
    return folder
