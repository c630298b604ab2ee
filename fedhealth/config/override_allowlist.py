"""The overrides that a site accepts in a job. They are checked as they arrive, before Hydra composes them.

An override may set one value, remove a tabular column, or choose an installed option. It cannot name code, a file, an
environment variable or another site, add a key, start a sweep, or change what the site's own policy decides. Hydra
itself blocks few of these: it refuses `os.system` as a `_target_`, but not `numpy.save`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType, ValueType
from hydra.errors import HydraException

from fedhealth.config.compose import LOCAL_KEYS, get_conf_dir

_KEY = re.compile(r"[a-z][a-z0-9_]*(\.[A-Za-z0-9][A-Za-z0-9_-]*)*", re.ASCII)
_GROUP = re.compile(r"[a-z][a-z0-9_]*(/[a-z][a-z0-9_]*)*", re.ASCII)
_OPTION = re.compile(r"[a-z0-9][a-z0-9_-]*", re.ASCII)
_VALUE = re.compile(r"[A-Za-z0-9+-][A-Za-z0-9_.+-]{0,63}", re.ASCII)
_LIST = re.compile(rf"\[({_VALUE.pattern}(, ?{_VALUE.pattern}){{0,199}})?\]", re.ASCII)
_DROPPED_COLUMN = re.compile(r"~data\.tabular\.[A-Za-z0-9_-]{1,64}", re.ASCII)
_SITE_SETTINGS = ("hydra", "secagg.lead", "secagg.site", "runtime", "baselines", *LOCAL_KEYS)


def find_override_errors(overrides: Sequence[str], further: Path | None = None) -> list[str]:
    """Return every error in a job's overrides; empty if they may be composed.

    Args:
        overrides: as they arrived.
        further: a folder of options that this site's staff installed in addition to ours.

    """
    folders = (get_conf_dir(), *([further] if further else []))
    faults = [f"{override[:80]!r}: {fault}" for override in overrides for fault in _find_errors(override, folders)]
    keys = [override.partition("=")[0] for override in overrides]
    return faults + [f"{key[:80]!r}: is set twice" for key in sorted({key for key in keys if keys.count(key) > 1})]


def select_shared_overrides(overrides: Sequence[str]) -> list[str]:
    """Return the overrides of a command that are sent to the sites; the others concern this machine only."""
    return [override for override in overrides if not _is_site_setting(override.lstrip("+~").partition("=")[0])]


def _find_errors(override: str, folders: Sequence[Path]) -> Iterator[str]:
    if _DROPPED_COLUMN.fullmatch(override):
        return
    key, equals, value = override.partition("=")
    if not equals:
        yield "is not of the form key=value"
    elif _is_site_setting(key):
        yield "is for the site to decide"
    elif _GROUP.fullmatch(key) and any((folder / key).is_dir() for folder in folders):
        yield from _find_option_errors(key, value, folders)
    elif not _KEY.fullmatch(key):
        yield "is no plain key (no +, ~, @, _ in front or interpolation)"
    elif not (_VALUE.fullmatch(value) or _LIST.fullmatch(value)):
        yield "is no plain value (no paths, quotes, sweeps, nesting or interpolation)"
    elif not _is_plain(override):
        yield "is read by Hydra as something else than a plain value"


def _find_option_errors(group: str, option: str, folders: Sequence[Path]) -> Iterator[str]:
    files = [folder / group / f"{option}.yaml" for folder in folders]
    listed = _OPTION.fullmatch(option) and any(file.is_file() for file in files)
    if not listed and option != "null":
        yield "is not an installed option"


def _is_site_setting(key: str) -> bool:
    dotted = key.replace("/", ".")  # data/source chooses what data.source says
    return any(dotted == own or dotted.startswith((f"{own}.", f"{own}@")) for own in _SITE_SETTINGS)


def _is_plain(override: str) -> bool:
    """Return whether Hydra parses the override as one change of one value, or of a flat list."""
    try:
        parsed: Override = OverridesParser.create().parse_override(override)
    except HydraException:
        return False
    plain = parsed.type is OverrideType.CHANGE and parsed.value_type is ValueType.ELEMENT and parsed.package is None
    value = parsed.value()
    parts = value if isinstance(value, list) else [value]
    return plain and all(isinstance(part, str | int | float | bool) or part is None for part in parts)
