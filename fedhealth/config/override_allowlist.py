"""What a site accepts of a job: plain override words, looked at as they arrive, before anything composes them.

A word sets one value, takes a tabular column away, or chooses an installed option. There is no way here to name code,
a file, the environment or another site, to add a key, to sweep, or to touch what the site's own policy decides. Hydra
blocks few of these by itself: it refuses `os.system` as a `_target_`, but not `numpy.save`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType, ValueType
from hydra.errors import HydraException

from fedhealth.config.compose import LOCAL_KEYS, conf_dir

_KEY = re.compile(r"[a-z][a-z0-9_]*(\.[A-Za-z0-9][A-Za-z0-9_-]*)*", re.ASCII)
_GROUP = re.compile(r"[a-z][a-z0-9_]*(/[a-z][a-z0-9_]*)*", re.ASCII)
_OPTION = re.compile(r"[a-z0-9][a-z0-9_-]*", re.ASCII)
_VALUE = re.compile(r"[A-Za-z0-9+-][A-Za-z0-9_.+-]{0,63}", re.ASCII)
_LIST = re.compile(rf"\[({_VALUE.pattern}(, ?{_VALUE.pattern}){{0,199}})?\]", re.ASCII)
_DROPPED_COLUMN = re.compile(r"~data\.tabular\.[A-Za-z0-9_-]{1,64}", re.ASCII)
_OWN = ("hydra", "secagg.lead", "secagg.site", "runtime", "comparison", *LOCAL_KEYS)


def screen(words: Sequence[str], further: Path | None = None) -> list[str]:
    """Return what is wrong with a job's words, all of it; empty when they may be composed.

    Args:
        words: as they arrived.
        further: a folder of options that this site's staff installed beside our own.

    """
    folders = (conf_dir(), *([further] if further else []))
    faults = [f"{word[:80]!r}: {fault}" for word in words for fault in _faults(word, folders)]
    keys = [word.partition("=")[0] for word in words]
    return faults + [f"{key[:80]!r}: is set twice" for key in sorted({key for key in keys if keys.count(key) > 1})]


def travelling(words: Sequence[str]) -> list[str]:
    """Return the words of a command that concern the sites; the others are this machine's own."""
    return [word for word in words if not _is_own(word.lstrip("+~").partition("=")[0])]


def _faults(word: str, folders: Sequence[Path]) -> Iterator[str]:
    if _DROPPED_COLUMN.fullmatch(word):
        return
    key, equals, value = word.partition("=")
    if not equals:
        yield "is not of the form key=value"
    elif _is_own(key):
        yield "is for the site to decide"
    elif _GROUP.fullmatch(key) and any((folder / key).is_dir() for folder in folders):
        yield from _option_faults(key, value, folders)
    elif not _KEY.fullmatch(key):
        yield "is no plain key (no +, ~, @, _ in front or interpolation)"
    elif not (_VALUE.fullmatch(value) or _LIST.fullmatch(value)):
        yield "is no plain value (no paths, quotes, sweeps, nesting or interpolation)"
    elif not _is_plain(word):
        yield "is read by Hydra as something else than a plain value"


def _option_faults(group: str, option: str, folders: Sequence[Path]) -> Iterator[str]:
    files = [folder / group / f"{option}.yaml" for folder in folders]
    listed = _OPTION.fullmatch(option) and any(file.is_file() for file in files)
    if not listed and option != "null":
        yield "is not an installed option"


def _is_own(key: str) -> bool:
    dotted = key.replace("/", ".")  # data/source chooses what data.source says
    return any(dotted == own or dotted.startswith((f"{own}.", f"{own}@")) for own in _OWN)


def _is_plain(word: str) -> bool:
    """Tell whether Hydra reads the word as we do: one change of one value, or of a flat list."""
    try:
        parsed: Override = OverridesParser.create().parse_override(word)
    except HydraException:
        return False
    plain = parsed.type is OverrideType.CHANGE and parsed.value_type is ValueType.ELEMENT and parsed.package is None
    value = parsed.value()
    parts = value if isinstance(value, list) else [value]
    return plain and all(isinstance(part, str | int | float | bool) or part is None for part in parts)
