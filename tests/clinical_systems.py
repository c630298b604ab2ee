"""A hospital's systems for tests and the demo: an archive of images, a FHIR server, a database of synthetic people.

Each image is in Orthanc, each report and diagnosis in the FHIR server, each laboratory value in an OMOP database.
"""

from contextlib import ExitStack

from pydicom import dcmread

from tests import fhir_server, orthanc
from tests.fedhealth.ingest.hospital import write_image
from tests.fhir import ICD, make_hospital
from tests.omop import CRP, fill_database

ABSENT = orthanc.ABSENT or fhir_server.ABSENT
OVERRIDES = ("data.tabular.crp.unit=mg/l", "+data.tabular.crp.conversions={mg/dl: 10}", "data.image.size=32")
LABEL = f'{{resource: Condition, codes: ["{ICD}|J18.9"], take: any}}'


class ClinicalSystems:
    """The systems of one hospital below `folder`; every second of its people is ill."""

    def __init__(self, folder, site, people, database="sqlite", first=1000):
        self.folder, self.site, self.people = folder, site, [f"KH-{first + number}" for number in range(people)]
        self.database, self.file = f"{database}:///{folder}/cdm.db", folder / "ingest.yaml"
        self.cohort = folder.parent / "cohorts" / site
        self._stack = ExitStack()

    def __enter__(self):
        self.folder.mkdir(parents=True)
        with ExitStack() as stack:  # what was started is stopped if the next does not start
            self.archive = stack.enter_context(orthanc.Orthanc(self.folder / "archive", is_strict=False))
            self.records = stack.enter_context(fhir_server.FhirServer())
            self._fill_systems()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *fault):
        self._stack.close()

    def write_settings(self, further=""):
        """Write ingest.yaml: one file names all three systems."""
        known = ", ".join(f"{name}: {value}" for name, value in self.archive.access.items())
        self.file.write_text(
            f"""site: {self.site}
data: demo
source:
  _target_: fedhealth.ingest.sources.dicomweb.DicomWeb
  url: {self.archive.dicomweb}
  access: {{{known}}}
tables:
  - source:
      _target_: fedhealth.ingest.sources.fhir.FhirReports
      url: {self.records.url}
    keys: {{study: study, patient: patient}}
    columns: {{text: text}}
    names: [family, given]
  - source:
      _target_: fedhealth.ingest.sources.fhir.FhirPatients
      url: {self.records.url}
      variables:
        ill: {LABEL}
    keys: {{patient: patient}}
    columns: {{label: ill, sex: sex}}
  - source:
      _target_: fedhealth.ingest.sources.omop.OmopTable
      url: {self.database}
      variables:
        crp: {{domain: measurement, concepts: [{CRP}], take: last}}
    keys: {{patient: patient}}
    columns: {{crp: crp}}
text: {{remove: [besser, schlechter]}}
{further}""",
            "utf-8",
        )

    def _fill_systems(self):
        studies = []
        for number, patient in enumerate(self.people):
            path = self.folder / "images" / f"{patient}.dcm"
            write_image(path, patient, label=number % 2, seed=number, size=48)
            self.archive.upload(path)
            studies.append(str(dcmread(path, stop_before_pixels=True).StudyInstanceUID))
        self.records.add(make_hospital(self.people, studies))
        fill_database(self.database, self.people)
        self.write_settings()
