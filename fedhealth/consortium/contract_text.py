"""The data contract of a study in plain words; a contract that lacks a part of them cannot be approved."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def describe_contract(data: dict[str, Any]) -> Iterator[str]:
    """Yield what the data of a study mean.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: a part is missing, or of another type.

    """
    task = data["task"]
    yield f"data {data['name']}: {task['kind']} with the classes {', '.join(task['classes'])}"
    for name, column in data["tabular"].items():
        if column["kind"] == "categorical":
            yield f"{name}: one of {', '.join(column['levels'])}{_format_required(column)}"
        else:
            unit = f" in {column['unit']}" if column["unit"] else ""
            valid = f", {column['valid_range'][0]:g} to {column['valid_range'][1]:g}" if column["valid_range"] else ""
            scaled = f", as (value - {column['center']:g}) / {column['scale']:g}"
            yield f"{name}: a number{unit}{valid}{scaled}{_format_required(column)}"
    image = data["image"]
    yield f"images: {image['channels']} x {image['size']} x {image['size']} pixels"
    split = data["split"]
    held_out = f"{split['validation']:g} for validation, {split['test']:g} for tests"
    yield f"held out where the table names no split: {held_out}"
    yield f"unreadable images: at most {data['max_rejected']:.1%}"


def _format_required(column: dict[str, Any]) -> str:
    return ", required" if column["required"] else ""
