"""JSON schemas of the YAML files that people edit: an editor then completes keys and marks faults."""

from __future__ import annotations

import json
from typing import Any

from pydantic import ConfigDict, TypeAdapter


def build_schema(kind: type) -> dict[str, Any]:
    """Return the JSON schema of a file that `load_yaml` reads as `kind`, a dataclass; unknown keys are refused."""
    adapter = TypeAdapter(list[kind], config=ConfigDict(extra="forbid"))  # type: ignore[valid-type]
    schema = adapter.json_schema()
    return {"$defs": schema["$defs"], **schema["items"]}  # of the file, not of the list


def dump_schema(kind: type) -> bytes:
    """Return the same as the content of a file."""
    return (json.dumps(build_schema(kind), indent=1, sort_keys=True) + "\n").encode()
