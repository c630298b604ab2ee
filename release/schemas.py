"""JSON schemas of the files that people edit, for editors and for checks before a change is rolled out."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import ConfigDict, TypeAdapter

from fedhealth.lead.project import Project
from fedhealth.site.policy import Policy
from fedhealth.site.setup_plan import SetupAnswers

_FILES: dict[str, type] = {
    "site.schema.json": Policy,
    "project.schema.json": Project,
    "setup.schema.json": SetupAnswers,
}


def write_schemas(folder: Path) -> None:
    """Write one schema for each file that people edit."""
    folder.mkdir()
    for name, kind in _FILES.items():
        adapter = TypeAdapter(list[kind], config=ConfigDict(extra="forbid"))  # type: ignore[valid-type]
        schema = adapter.json_schema()
        one = {"$defs": schema["$defs"], **schema["items"]}  # of the file, not of the list
        (folder / name).write_text(json.dumps(one, indent=1, sort_keys=True) + "\n", "utf-8")
