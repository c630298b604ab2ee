"""JSON schemas of the files that people edit, for editors and for checks before a change is rolled out."""

from __future__ import annotations

from pathlib import Path

from fedhealth.lead.project import Project
from fedhealth.site.policy import Policy
from fedhealth.site.setup_plan import SetupAnswers
from fedhealth.utils.json_schema import dump_schema

_FILES: dict[str, type] = {
    "site.schema.json": Policy,
    "project.schema.json": Project,
    "setup.schema.json": SetupAnswers,
}


def write_schemas(folder: Path) -> None:
    """Write one schema for each file that people edit."""
    folder.mkdir()
    for name, kind in _FILES.items():
        (folder / name).write_bytes(dump_schema(kind))
