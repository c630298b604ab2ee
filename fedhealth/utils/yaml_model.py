"""Read a YAML file as a frozen dataclass: every fault named at once, no key unknown, no value of another kind.

Nothing is interpolated and nothing is converted but a whole number to a float and a text to a path.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from fedhealth.errors import ConfigError

Kind = TypeVar("Kind")


def load(path: Path, kind: type[Kind], check: Callable[[Kind], list[str]], advice: str) -> Kind:
    """Read the file and return it as `kind`.

    Args:
        path: of a YAML file.
        kind: a dataclass, of dataclasses, tuples, mappings, paths, texts and numbers.
        check: returns what is wrong with values that have the right kind.
        advice: what to do about a fault.

    Raises:
        ConfigError: it cannot be read, or holds a fault; all faults are named.

    """
    try:
        content = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except (YAMLError, OmegaConfBaseException, OSError, ValueError, RecursionError) as fault:
        raise ConfigError(f"{path}: cannot be read ({' '.join(str(fault).split())}).", advice) from fault
    faults: list[str] = []
    built = _build(kind, content, "", faults)
    faults += [] if faults else check(built)
    if faults:
        raise ConfigError("\n".join(f"{path}: {fault}" for fault in faults), advice)
    found: Kind = built
    return found


def _build(kind: Any, value: Any, where: str, faults: list[str]) -> Any:
    """Return `value` as `kind`; what does not fit is added to `faults`."""
    if kind is Any:
        return value
    if is_dataclass(kind):
        return _section(kind, value, where, faults)
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return None if value is None else _build(inner[0], value, where, faults)
    if origin is tuple and isinstance(value, list):
        return tuple(_build(inner[0], entry, f"{where}[{place}]", faults) for place, entry in enumerate(value))
    if origin is Mapping and isinstance(value, dict):
        return {str(key): _build(inner[1], entry, f"{where}.{key}", faults) for key, entry in value.items()}
    if kind is Path and isinstance(value, str) and value:
        return Path(value).expanduser()
    if kind is float and type(value) is int:
        return float(value)
    if kind in (str, bool, int, float) and type(value) is kind:
        return value
    faults.append(f"{where}: {value!r} is not of the right kind ({getattr(kind, '__name__', kind)}).")
    return None


def _section(kind: Any, value: Any, where: str, faults: list[str]) -> Any:
    if not isinstance(value, dict):
        faults.append(f"{where or 'the file'}: names and values are wanted here.")
        return None
    hints, prefix = get_type_hints(kind), f"{where}." if where else ""
    known = {entry.name: entry for entry in fields(kind)}
    faults += [f"{prefix}{key}: there is no such key." for key in value if key not in known]
    required = [name for name, entry in known.items() if entry.default is entry.default_factory is MISSING]
    faults += [f"{prefix}{name}: is missing." for name in required if name not in value]
    given = {key: _build(hints[key], entry, f"{prefix}{key}", faults) for key, entry in value.items() if key in known}
    return None if faults else kind(**given)
