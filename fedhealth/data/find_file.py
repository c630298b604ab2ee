"""Find the file that a manifest names, although another system wrote the name."""

from __future__ import annotations

import os
import unicodedata
from functools import lru_cache
from pathlib import Path


def find_file(folder: Path, name: str) -> Path | None:
    """Return the file; None if there is none.

    A name may have backslashes (Windows), another Unicode form (macOS) or another case, if it is then still unique.

    Args:
        folder: which the name is relative to.
        name: as in the table.

    """
    direct = folder / name
    if direct.is_file():
        return direct
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
    found = folder if not name.startswith("/") else Path("/")
    for part in parts:
        if part == "..":
            found = found.parent
            continue
        names = _list_names(found, found.stat().st_mtime_ns) if found.is_dir() else {}
        entries = names.get(_simplify_name(part), ())
        exact = [entry for entry in entries if entry == part]
        if len(exact or entries) != 1:
            return None
        found = found / (exact or entries)[0]
    return found if found.is_file() else None


@lru_cache(maxsize=256)
def _list_names(folder: Path, changed: int) -> dict[str, tuple[str, ...]]:
    """Return the names in a folder by their simple form; `changed` is its modification time, for the cache."""
    names: dict[str, tuple[str, ...]] = {}
    for entry in sorted(folder.iterdir()):
        simple = _simplify_name(entry.name)
        names[simple] = (*names.get(simple, ()), entry.name)
    return names


def _simplify_name(name: str) -> str:
    """Return a name's simple form; a name on disk that is not UTF-8 is Windows Western."""
    try:
        name.encode()
    except UnicodeEncodeError:
        name = os.fsencode(name).decode("cp1252", "replace")
    return unicodedata.normalize("NFC", name).casefold()
