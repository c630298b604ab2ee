"""JSON on standard output, for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from typing import Any

import typer


def print_json(content: object) -> None:
    """Print dataclasses, mappings, lists and plain values as JSON; a number that is not finite becomes null."""
    typer.echo(json.dumps(_to_plain(content), indent=1, default=str))


def _to_plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return _to_plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): _to_plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_to_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
