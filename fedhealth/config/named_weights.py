"""Which pretrained weights the runs of a study may start from, by the names in its configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedhealth.config.open_paths import OpenPath, flatten_settings

_SETTINGS = ("weights", "pretrained")  # of an encoder


def list_named_weights(configuration: Mapping[str, Any], open_paths: Sequence[OpenPath]) -> list[str]:
    """Return the names of all weights in a resolved configuration and in the values that runs may set, sorted."""
    values = [(path, value) for path, value in flatten_settings(configuration)]
    values += [(each.path, value) for each in open_paths for value in each.values]
    return sorted({str(value) for path, value in values if value and _is_name(path)})


def _is_name(path: str) -> bool:
    return path.startswith("model.") and path.rpartition(".")[2] in _SETTINGS
