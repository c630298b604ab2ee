"""The settings that the runs of a study may vary, and whether a configuration keeps within them.

Configurations are compared value by value after everything is resolved: what was written in a command, and what came
from an installed option or default, count alike.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedhealth.errors import ConfigError

_ABSENT = "absent"  # no JSON text
_CONTRACT = "data."


@dataclass(frozen=True)
class OpenPath:
    """A setting that may vary.

    Attributes:
        path: dotted, as in an override.
        values: the allowed ones, plain JSON values.
        may_be_absent: whether a configuration may also lack it, as another option of a group does.

    """

    path: str
    values: tuple[Any, ...]
    may_be_absent: bool = False


def flatten_settings(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (path, value) of every setting; a list, and an empty mapping, is one value."""
    for key, value in settings.items():
        path = prefix + (json.dumps(key) if set(key) & {".", '"'} else key)  # no two keys give one path
        if isinstance(value, Mapping) and value:
            yield from flatten_settings(value, f"{path}.")
        else:
            yield path, value


def encode_setting(value: Any) -> str:
    """Return a value as JSON text; equal texts mean equal values of equal types."""
    return json.dumps(value, sort_keys=True)


def find_changes_outside(
    approved: Mapping[str, Any], found: Mapping[str, Any], open_paths: Sequence[OpenPath]
) -> list[str]:
    """Return the paths where a configuration differs from the approved one in a way that is not left open.

    Args:
        approved: the resolved settings of a study.
        found: those of a run.
        open_paths: what the study leaves open.

    """
    allowed = {each.path: _encode_choices(each) for each in open_paths}
    before, after = _encode_all(approved), _encode_all(found)
    differing = [path for path in before.keys() | after.keys() if before.get(path) != after.get(path)]
    return sorted(path for path in differing if after.get(path, _ABSENT) not in allowed.get(path, ()))


def collect_open_paths(configurations: Sequence[Mapping[str, Any]]) -> tuple[OpenPath, ...]:
    """Return the settings in which configurations differ, with their values.

    Args:
        configurations: resolved settings; the first is that of the study.

    Raises:
        ConfigError: they differ in the meaning of the data, which a study never leaves open.

    """
    leaves = [dict(flatten_settings(each)) for each in configurations]
    found = []
    for path in sorted({path for each in leaves for path in each}):
        texts = [encode_setting(each[path]) if path in each else _ABSENT for each in leaves]
        values = tuple(json.loads(text) for text in dict.fromkeys(texts) if text != _ABSENT)
        if len(set(texts)) > 1:
            found.append(OpenPath(path, values, _ABSENT in texts))
    if closed := [each.path for each in found if each.path.startswith(_CONTRACT)]:
        raise ConfigError(
            f"A study cannot leave {', '.join(closed)} open: hospitals approve the meaning of the data once.",
            "Make a study of its own for each meaning.",
        )
    return tuple(found)


def _encode_choices(open_path: OpenPath) -> set[str]:
    return {*map(encode_setting, open_path.values), *([_ABSENT] if open_path.may_be_absent else [])}


def _encode_all(settings: Mapping[str, Any]) -> dict[str, str]:
    return {path: encode_setting(value) for path, value in flatten_settings(settings)}
