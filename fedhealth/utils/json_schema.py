"""JSON schemas of the YAML files that people edit: an editor then completes keys and marks faults."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter

from fedhealth.utils.atomic_io import write_atomic


def build_schema(kind: type) -> dict[str, Any]:
    """Return the JSON schema of a file that `load_yaml` reads as `kind`, a dataclass; unknown keys are refused."""
    adapter = TypeAdapter(list[kind], config=ConfigDict(extra="forbid"))  # type: ignore[valid-type]
    schema = adapter.json_schema()
    return {"$defs": schema["$defs"], **schema["items"]}  # of the file, not of the list


def dump_schema(kind: type) -> bytes:
    """Return the same as the content of a file."""
    return (json.dumps(build_schema(kind), indent=1, sort_keys=True) + "\n").encode()


def get_schema_name(file: str) -> str:
    """Return the name of a YAML file's schema: `site.schema.json` for `site.yaml`."""
    return f"{Path(file).stem}.schema.json"


def format_schema_line(file: str) -> str:
    """Return the comment, without line end, by which editors find the schema beside a YAML file."""
    return f"# yaml-language-server: $schema={get_schema_name(file)}"


def write_schema(file: Path, kind: type) -> None:
    """Write the schema of a YAML file beside it, for editors; that of an earlier release is replaced."""
    write_atomic(file.with_name(get_schema_name(file.name)), dump_schema(kind))
