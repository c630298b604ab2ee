"""JSON schemas of the files that people edit, for editors and for checks before a change is rolled out."""

from __future__ import annotations

from pathlib import Path

from fedhealth.ingest.settings import IngestSettings
from fedhealth.lead.project import Project
from fedhealth.lead.study_draft import StudyDraft
from fedhealth.site.policy import Policy
from fedhealth.site.setup_plan import SetupAnswers
from fedhealth.utils.json_schema import dump_schema, get_schema_name

FILES: dict[str, type] = {
    "site.yaml": Policy,
    "ingest.yaml": IngestSettings,
    "setup.yaml": SetupAnswers,
    "project.yaml": Project,
    "study.yaml": StudyDraft,
}
"""The type of each file that people edit."""


def write_schemas(folder: Path) -> None:
    """Write one schema for each file that people edit."""
    folder.mkdir()
    for file, kind in FILES.items():
        (folder / get_schema_name(file)).write_bytes(dump_schema(kind))
